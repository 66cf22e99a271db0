"""What users ask of an assistant, put together from frames and subjects of our own: the openings of chats that a model plays by itself.

A message that ends with a colon lacks the text it speaks of; the model goes on with it, as the user. Every tenth frame and every tenth
subject of a kind is held out: messages to measure on are made of these alone, messages to train on of the others.
"""
from __future__ import annotations

import random

HELD_OUT = 10  # one of so many
# kind -> (how often, frames, what stands in their braces: each a different one of the list)
KINDS = {
    "knowledge": (4, (
        "What is {}?", "How does {} work?", "Explain {} to a beginner.", "Why is {} important?", "What are the main parts of {}?",
        "Tell me about the history of {}.", "Describe {} in two paragraphs.", "What do people often get wrong about {}?",
        "Give me a short overview of {}.", "List five facts about {}.", "How did {} change over time?",
        "What is the relation between {} and {}?", "Compare {} with {}.", "Which problems does {} solve?",
        "Can you explain {} with an example?", "What are the advantages and disadvantages of {}?", "Explain {} in simple words.",
        "Who first studied {}, and why?", "Write a paragraph about {}.", "Ask me three questions that test what I know about {}.",
        "How would you teach {} to a class?", "What happens during {}?", "Summarise what is known about {}.",
        "What should everyone know about {}?"), (
        "photosynthesis", "the water cycle", "gravity", "inflation", "the human heart", "electric current", "the Roman republic",
        "magnetism", "evolution", "the printing press", "plate tectonics", "democracy", "the immune system", "sound",
        "solar panels", "fermentation", "the digestive system", "probability", "earthquakes", "the stock market", "glass making",
        "the nervous system", "radio waves", "bridges", "sleep", "the French Revolution", "compound interest", "chess", "bees",
        "the Silk Road", "nuclear power", "volcanoes", "machine learning", "paper money", "ocean currents", "the alphabet",
        "black holes", "insurance", "steel", "the respiratory system", "antibiotics", "supply and demand", "jazz", "glaciers",
        "refrigeration", "satellites", "perspective in painting", "memory", "trade unions", "the periodic table")),
    "advice": (3, (
        "How do I {}?", "What is the best way to {}?", "Give me five tips to {}.", "I want to {}. Where should I begin?",
        "Help me to {}.", "Make a list of what I need to {}.", "Write a step-by-step guide: how to {}.",
        "What mistakes should I avoid when I {}?", "How long does it take to {}?", "Make a plan for one month in which I {}.",
        "Is it hard to {}?", "What would you tell a friend who wants to {}?", "Give me a checklist for the day when I {}."), (
        "bake bread", "save money", "learn a new language", "run a marathon", "grow tomatoes", "prepare for an interview",
        "repair a bicycle", "sleep better", "write a résumé", "organise a birthday party", "paint a room", "train a puppy",
        "read more books", "move to a new city", "start a small business", "cook for ten guests", "study for an exam",
        "take better photographs", "build a bookshelf", "swim faster", "give a talk", "keep houseplants alive", "choose a laptop",
        "make new friends", "plan a road trip", "stop procrastinating", "sew a button", "eat more vegetables", "draw portraits",
        "set up a home network")),
    "code": (3, (
        "Write a {} program that {}.", "Write a {} function that {}, and explain it.", "In {}, how do I write something that {}?",
        "Show me {} code that {}.", "My {} code should be something that {}, but it fails. What could be wrong?",
        "Write tests in {} for a function that {}.", "Give an example in {} of code that {}, with comments.",
        "What is a short way in {} to write a function that {}?", "Write a {} class that {}.", "Improve a {} script that {}.",
        "Explain how a {} program that {} works."), None),
    "stories": (3, (
        "Write a short story about {} and {}.", "Tell me a tale in which {} meets {}.", "Write a poem about {}.",
        "Write a letter from {} to {}.", "Write a dialogue between {} and {}.", "Describe {} on a winter morning.",
        "Invent a legend about {}.", "Write a song about {}.", "Write the beginning of a novel about {}.",
        "Write a scene in which {} is afraid of {}.", "Write a diary entry of {}.", "Write a funny story about {}.",
        "Write an advertisement for {}."), (
        "a retired teacher", "a clockmaker", "two sisters", "an abandoned station", "a talking cat", "the last dragon",
        "a lost map", "a young doctor", "a violin", "the sea", "a robot", "a small village", "a thief with a conscience",
        "my grandmother", "a blue door", "a wounded soldier", "a forest fire", "a travelling circus", "the moon", "a shy astronaut",
        "a baker", "a storm", "an empty theatre", "a painter", "a wolf")),
    "lists": (2, (
        "List ten {}.", "Name five {} and say why you chose them.", "Give me some ideas for {}.", "What are good {}?",
        "Suggest three {}.", "Make a table of {}.", "Rank the most popular {}.", "Give examples of {}, with a sentence for each.",
        "Which {} do you recommend?", "Write a bulleted list of {}."), (
        "games for children", "healthy breakfasts", "famous scientists", "names for a coffee shop", "books about history",
        "indoor plants", "exercises without equipment", "birthday presents", "rivers of Europe", "synonyms of happy",
        "hobbies for the evening", "musical instruments", "topics for an essay", "questions for a quiz",
        "animals that live in deserts", "programming languages", "ways to save energy", "cheap meals", "adjectives for a person",
        "national parks")),
    "texts": (3, (
        "Rewrite this text in a {} tone:", "Correct the grammar of this {} text:", "Summarise this {} article:",
        "Translate this {} note into French:", "Make this {} message shorter:", "Give this {} text a title:",
        "Turn these {} notes into an e-mail:", "What is the main idea of this {} text?", "Write a {} answer to this message:",
        "Make a list of the key points of this {} report:", "Is this {} review positive or negative?",
        "Extract the names and dates from this {} text:", "Explain this {} sentence:"), (
        "formal", "friendly", "short", "scientific", "private", "funny", "technical", "careful", "cheerful", "plain", "modern",
        "weekly")),
}
LANGUAGES = ("Python", "JavaScript", "Java", "C++", "Rust", "Go", "Bash", "TypeScript", "Ruby", "Kotlin")
TASKS = ("reverses a string", "sorts a list of names", "counts the words of a file", "checks whether a number is prime", "reads a CSV file",
         "merges two dictionaries", "finds duplicates in a list", "downloads a web page", "converts temperatures", "removes blank lines",
         "generates random passwords", "validates an e-mail address", "draws a triangle of stars", "computes a moving average",
         "parses a date", "implements a stack", "plays tic-tac-toe", "logs errors to a file", "transposes a matrix", "renames many files")


def message(dice: random.Random, held_out: bool = False) -> str:
    """One message of a user, by the dice."""
    name = dice.choices(list(KINDS), [share for share, _, _ in KINDS.values()])[0]
    _, frames, subjects = KINDS[name]
    frame = dice.choice(part(frames, held_out))
    if subjects is None:
        return frame.format(*(dice.choice(part(list_, held_out)) for list_ in (LANGUAGES, TASKS)))
    return frame.format(*dice.sample(part(subjects, held_out), frame.count("{}")))


def part(list_, held_out: bool):
    """The tenth of a list that is held out, at least one; or the rest."""
    every = min(HELD_OUT, len(list_) // 2)
    return [one for i, one in enumerate(list_) if (i % every == every - 1) == held_out]

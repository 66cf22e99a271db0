"""What users ask of an assistant, put together from frames and subjects of our own: a small model answers such questions well, and is
poor at inventing them. Every tenth frame, subject and text is held out: messages to measure on are made of these alone, messages to train
on of the others.
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
# What stands behind the frames of "texts".
TEXTS = (
    "The bus did not come, so we walked home along the river and arrived after dark.",
    "Please find attached the figures for March. Sales rose a little, costs rose more.",
    "Him and me was going to the shop but they was closed already.",
    "The new library has three floors, a reading garden and forty computers. It opens on Monday at nine.",
    "I bought this kettle in June. It leaks, the lid is loose, and nobody answers my calls.",
    "Plants take in carbon dioxide through small openings in their leaves and give off oxygen by day.",
    "Dear neighbours, our roof will be repaired next week. There will be noise in the mornings. We are sorry.",
    "Anna Berg met Tom Silva in Lisbon on 4 May 1998; they founded their company two years later.",
    "The film is too long, but the actors are wonderful and the music stays with you.",
    "budget approved - hire two people - Maria writes the advert - interviews in August",
    "Can you tell me what time the museum closes and whether children pay?",
    "In recent years more and more young people have been choosing to rent instead of buying a house of their own.",
    "The cat sat by the window all afternoon and watched the snow cover the garden.",
    "Our team lost the final by one point. The coach said that she was proud of every player.",
    "I can't come to your party because my sister is ill. I will bring the cake on Sunday.",
    "The committee decided that a decision should be decided upon at a later meeting of the committee.",
    "Sleep helps the brain to store what was learned by day, which is why short nights hurt marks at school.",
    "your order number 5512 has been delayed, we expect it on the 12th",
    "The hotel was clean and the staff were kind, but our room faced a loud street.",
    "She opened the box, saw the ring, and understood at once who had sent it.",
    "Wash the rice, add two cups of water, cook it for fifteen minutes and let it rest.",
    "The river rose by two metres in one night, and forty families had to leave their homes.",
    "We regret to inform you that your application was not successful this time.",
    "Me and my brother has built a boat, it don't float but we is happy.",
    "The phone is light and fast, the camera is poor, and the battery lasts two days.",
    "The city plans to close the old bridge to cars in 2027 and to give it to cyclists.",
    "Thank you for the flowers! They stand on my desk, and everyone asks who sent them.",
    "A study of 900 adults found that those who walked daily reported fewer headaches.",
    "to do: call the plumber, pay the rent, book train tickets, water the plants",
    "The lecture was moved to the big hall since so many students wanted to hear it.",
)
# What stands behind some of the other messages.
WISHES = ("Keep it short.", "Use simple words.", "Give an example.", "Answer in one paragraph.", "I am twelve years old.", "Be precise.",
          "Write at most 100 words.", "Use bullet points.", "Please be honest.", "I know nothing about it.", "Make it interesting.",
          "Explain your choice.", "Thank you!", "It is for school.", "Go step by step.", "Use numbers where you can.", "Be friendly.",
          "Start with the most important point.", "No introduction, please.", "End with a question.")
WISHED = 0.3  # so many have one


def message(dice: random.Random, held_out: bool = False) -> str:
    """One message of a user, by the dice."""
    name = dice.choices(list(KINDS), [share for share, _, _ in KINDS.values()])[0]
    one = lambda list_: dice.choice(part(list_, held_out))
    _, frames, subjects = KINDS[name]
    frame = one(frames)
    if subjects is None:
        text = frame.format(one(LANGUAGES), one(TASKS))
    else:
        text = frame.format(*dice.sample(part(subjects, held_out), frame.count("{}")))
    if name == "texts":
        return f"{text} {one(TEXTS)}"
    return f"{text} {one(WISHES)}" if dice.random() < WISHED else text


def part(list_, held_out: bool):
    """The tenth of a list that is held out, at least one; or the rest."""
    every = min(HELD_OUT, len(list_) // 2)
    return [one for i, one in enumerate(list_) if (i % every == every - 1) == held_out]

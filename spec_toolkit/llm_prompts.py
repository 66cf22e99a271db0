"""Prompts of our own for measuring a decoding loop: questions, code, rewriting, lists, stories, one kind after the other.

Short, so that reading them costs little, and such that most answers are longer than what is decoded of them.
"""
PROMPTS = (
    "Why does ice float on water? Explain it to a ten-year-old.",
    "Write a Python function that returns the n-th Fibonacci number, with a docstring and two examples.",
    "Rewrite this so that it sounds polite: Send me the report today. You are late again.",
    "List ten things to pack for a week in the mountains in autumn.",
    "Tell a short story about a lighthouse keeper who finds a letter in a bottle.",
    "What is the difference between weather and climate?",
    "Explain step by step how binary search finds a number in a sorted list.",
    "Summarise in three sentences why people began to farm instead of hunting and gathering.",
    "Give me a weekly plan of simple vegetarian dinners, one line for each day.",
    "Write the first page of a detective story that is set in a snowed-in train.",
    "How do vaccines teach the body to fight a disease?",
    "Write an SQL query that counts the orders of each customer in the last month, and explain each line of it.",
    "Turn these notes into a friendly e-mail: meeting moved to Friday, room 12, bring the budget, lunch is provided.",
    "Name eight inventions that changed how people travel, each with one sentence.",
    "Describe a market in a harbour town early in the morning, so that a reader can smell it.",
    "What happens in a computer between pressing a key and seeing the letter on the screen?",
    "Write a small C program that reads numbers from standard input and prints their mean.",
    "Make this shorter without losing anything: The reason why we decided to stop is because of the fact that it began to rain heavily.",
    "List the planets of the solar system from the sun outwards, with one fact about each.",
    "Write a dialogue between an old tree and a young bird about the coming winter.",
    "How can I learn to play the guitar if I have only twenty minutes a day?",
    "Explain what a hash table is, where it is used, and what happens when two keys collide.",
    "Write a short speech for the opening of a school library.",
    "Compare tea and coffee: origin, taste, effect and preparation, a paragraph for each.",
)

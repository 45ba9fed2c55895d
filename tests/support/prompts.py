"""Thirty prompts, twelve of them not ASCII, for comparisons on real models."""

from __future__ import annotations

from unisono.chat.messages import Message, Prompt

QUESTIONS = (
    "What is the capital of France?",
    "A baker sells 12 rolls at 35 cents each. How much money is that?",
    "¿Cuál es la capital de España?",
    "日本の首都はどこですか。",
    "ما هي عاصمة مصر؟",
    "Describe 🐝 in one sentence.",
)

TEXTS = (
    "The history of the lighthouse began when",
    "def fibonacci(n):\n    ",
    "Once upon a time, in a village by the river,",
    "1, 1, 2, 3, 5, 8, 13,",
    "The three laws of motion state that",
    "Dear Sir or Madam,\n\nI am writing to",
    "SELECT name, age FROM people WHERE",
    "| animal | legs |\n|--------|------|\n| spider |",
    "Ingredients:\n- 200 g flour\n- 3 eggs\n-",
    "It was a dark and stormy night;",
    "The train from Leeds",
    "Q: What is 17 + 25?\nA:",
    "<p>Hello, <b>",
    "\tif (x > 0) {\r\n",
    'She said: "I',
    "In 1969,",
    "El señor Muñoz vivía en una casa pequeña —",
    "北京是中国的首都,",
    "Город стоял на берегу реки, и",
    "Ein schöner Tag für die Größten: \u201e",
    "The café's naïve piñata 🎉 was",
    "Ça va être",
    "안녕하세요, 저는",
    "בוקר טוב,",
)

CHATS = tuple(Prompt(messages=(Message(role="user", content=question),)) for question in QUESTIONS)
RAW = tuple(Prompt(text=text) for text in TEXTS)
ALL = (*CHATS, *RAW)

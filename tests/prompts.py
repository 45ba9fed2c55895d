"""Thirty prompts, more than a third of them not ASCII, for comparisons on real models."""

from __future__ import annotations

from unisono.types import Message, Prompt

QUESTIONS = (
    "What is the capital of France?",
    "Name three fruits that are yellow.",
    "A baker sells 12 rolls at 35 cents each. How much money is that?",
    "Write one sentence about the sea.",
    "Is a whale a fish? Answer yes or no, and say why.",
    "Translate 'good morning' into Spanish.",
    "¿Cuál es la capital de España?",
    "Qu'est-ce qu'une forêt tropicale ?",
    "Wie heißt die Hauptstadt von Österreich?",
    "日本の首都はどこですか。",
    "水的沸点是多少度?",
    "Какой город является столицей России?",
    "ما هي عاصمة مصر؟",
    "Describe 🐝 in one sentence.",
    "מהי בירת ישראל?",
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
    "It was a dark and stormy night; the rain fell in torrents, except at",
    "El señor Muñoz vivía en una casa pequeña —",
    "北京是中国的首都,",
    "Город стоял на берегу реки, и",
    "Ein schöner Tag für die Größten: \u201e",
    "The café's naïve piñata 🎉 was",
)

CHATS = tuple(Prompt(messages=(Message(role="user", content=question),)) for question in QUESTIONS)
RAW = tuple(Prompt(text=text) for text in TEXTS)
ALL = (*CHATS, *RAW)

"""Answers in the shapes of the OpenAI API, whole or streamed."""

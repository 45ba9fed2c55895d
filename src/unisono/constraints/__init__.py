"""Constraints on the generated text: JSON, regular expressions and grammars, as masks over the union."""

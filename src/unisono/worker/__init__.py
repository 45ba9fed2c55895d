"""One member served to coordinators on other machines: its tokenizer, and its distributions as they are."""

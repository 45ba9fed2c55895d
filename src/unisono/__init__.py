"""Several large language models, with different tokenizers, write one text together."""

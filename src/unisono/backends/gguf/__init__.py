"""GGUF files: their header and their token table, for both backends that read them."""

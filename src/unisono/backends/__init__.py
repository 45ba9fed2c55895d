"""One adapter per library, all with one narrow protocol."""

"""llama.cpp, through its low-level interface."""

"""Members run by vLLM: each has an engine of its own, in a process of its own."""

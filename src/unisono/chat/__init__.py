"""Conversations and tools: messages, chat templates, and how models read and write tool calls."""

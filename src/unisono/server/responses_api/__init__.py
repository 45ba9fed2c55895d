"""OpenAI's Responses API, as another form of chats: what it asks is read as one, and its answers are told as items."""

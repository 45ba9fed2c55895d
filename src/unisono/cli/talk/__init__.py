"""What `unisono chat` is made of. Conversation, session and commands know no terminal; screen and line editor do."""

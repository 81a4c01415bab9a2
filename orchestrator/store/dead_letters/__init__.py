"""Dead letters: how a message is stored, and what becomes of it."""

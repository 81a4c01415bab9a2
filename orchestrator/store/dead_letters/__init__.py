"""Dead letters: how a message is stored, and how it is replayed, edited or dropped."""

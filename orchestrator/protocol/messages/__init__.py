"""How an event travels: its envelope, its JSON, how it is read, and the dead letter that it becomes if it cannot be."""

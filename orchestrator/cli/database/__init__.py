"""Commands that show or delete rows of the database alone: locks, the outbox, what ended long ago."""

"""Commands that only read or delete rows in the databases: locks, the outbox, and old data."""

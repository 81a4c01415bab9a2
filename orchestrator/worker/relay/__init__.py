"""The relay: sends what is in an outbox to the orchestrators that listen."""

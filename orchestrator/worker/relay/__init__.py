"""The relay sends the events in an outbox to the orchestrators that listen to them."""

"""A person's door: the console script `orchestrator`. Sits on top of the engine; nothing of the engine knows it."""

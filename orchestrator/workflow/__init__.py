"""The code that runs in Temporal workflows. It is deterministic, and imports no database, network, worker or client."""

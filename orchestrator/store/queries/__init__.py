"""Read-only queries for commands, metrics and clients."""

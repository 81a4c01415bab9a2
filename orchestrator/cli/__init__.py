"""The console script `orchestrator`, for operators. It is built on the engine; nothing in the engine imports it."""

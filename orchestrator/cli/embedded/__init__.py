"""The embedded mode in a terminal: a server, a database and workers as child processes, and what a person sees of them.

Shared by `orchestrator dev` and by the application's own scripts.
"""

"""The embedded mode in a terminal: a server, a database and workers as child processes, and a view of what they do.

`orchestrator dev` and the application's own scripts use it.
"""

"""A second implementation of SmartExpense: a small ledger in plain Python, with which the application is compared.

It is written from the specification and uses nothing of the application: import-linter allows it only the standard
library. It handles one event after the other, each completely or not at all, so it needs no sagas and no undo.
"""

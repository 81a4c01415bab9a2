"""What SmartExpense must do, a second time: a small ledger in plain Python, with which the application is compared.

Written from the specification, and from nothing of the application: it imports the standard library alone (held by
import-linter). It plays one event after the other, each wholly or not at all, so it needs no sagas and no undoing.
"""

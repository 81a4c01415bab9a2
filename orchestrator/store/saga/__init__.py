"""The state machine of a saga: opening, steps, undo, finish, waits, and an operator's decisions."""

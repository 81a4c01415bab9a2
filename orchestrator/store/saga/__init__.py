"""The state machine of a saga: opening, steps, undo, finish, waits, and a person's decisions."""

"""Sends good events, repeats and garbage through every source at once, shuffled, and checks what became of each."""

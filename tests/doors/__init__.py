"""Every door at once: good events, repeats and garbage in any order, and a count of what became of each."""

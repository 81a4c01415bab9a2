"""Commands for a project as a whole: to check it, and to run it."""

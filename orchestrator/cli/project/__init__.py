"""Commands that create, check and run a project as a whole."""

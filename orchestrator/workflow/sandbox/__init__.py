"""The sandbox in which Temporal runs workflow code, and the modules that it imports again for each execution."""

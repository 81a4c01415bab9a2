"""How a client learns how a saga ended: from the tables, or from its execution."""

"""The database that the rest of the store is built on: transactions, tables, clocks, the misuse guard."""

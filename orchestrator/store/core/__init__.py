"""The parts that the rest of the store is built on: transactions, tables, the clock, and the misuse guard."""

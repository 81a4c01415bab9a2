"""The store: SQL that decides. Saga rows, fences, turns, outcomes, the outbox, dead letters. Knows no Temporal."""

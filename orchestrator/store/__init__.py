"""The store: the SQL that decides, for sagas, steps, outcomes, the outbox and dead letters. It knows no Temporal."""

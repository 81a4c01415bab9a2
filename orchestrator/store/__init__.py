"""The store: the SQL that decides about sagas, steps, outcomes, the outbox and dead letters, without Temporal."""

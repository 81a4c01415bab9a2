"""Recovery: finds sagas without a live driver, and resumes or undoes them."""

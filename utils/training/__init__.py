"""Training a run: the loop, its state, validation, audit, records."""

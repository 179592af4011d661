"""Trains a run: loop, state, validation, audit, checkpoints and loggers."""

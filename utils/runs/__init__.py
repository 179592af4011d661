"""Resolves a command line and a checkpoint to the run to train."""

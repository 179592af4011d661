"""Checkpoints: the file format, and safe reading and writing."""

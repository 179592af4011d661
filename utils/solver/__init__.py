"""Optimizer, parameter groups, learning-rate plan, run extension and EMA."""

"""Branches of a run side by side: python -m utils.tools.compare."""

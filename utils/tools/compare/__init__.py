"""Compare runs, mainly branches of one run: python -m utils.tools.compare."""

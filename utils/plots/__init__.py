"""Pictures: curves of a run, learning-rate map, metrics curves, drawn boxes."""

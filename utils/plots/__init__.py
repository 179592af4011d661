"""Plots and images: curves of a run, learning-rate map, label statistics, drawn boxes."""

"""Inference: reads image sources, predicts, and writes the results."""

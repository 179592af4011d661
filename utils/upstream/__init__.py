"""Reads YOLOv5's checkpoints and imports its runs."""

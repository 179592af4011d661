"""Converters: from the original annotations of published data sets to YOLO labels."""

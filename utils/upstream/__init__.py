"""YOLOv5's own files: reading its weights and importing its runs."""

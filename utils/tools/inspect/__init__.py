"""Shows the content of a checkpoint: python -m utils.tools.inspect."""

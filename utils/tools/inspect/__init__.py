"""What a checkpoint holds: python -m utils.tools.inspect."""

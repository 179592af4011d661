"""From a source of images to predictions and their files."""

"""The detector: specification, layers, head, target assignment, loss and postprocessing."""

"""Looking at a data set before training on it: `python -m utils.tools.check DATA.yaml`."""

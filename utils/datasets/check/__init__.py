"""Looking at a data set before training on it: `python -m utils.datasets.check DATA.yaml`."""

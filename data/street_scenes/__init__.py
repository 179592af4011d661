"""Generated street scenes: the data set of data/streets.yaml."""

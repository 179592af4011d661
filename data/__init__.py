"""Data-set files, and the generator of the embedded data set."""

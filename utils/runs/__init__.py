"""From a command line and a checkpoint to the run that is to be trained."""

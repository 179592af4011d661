"""How good the detector is: matching, average precision, the validation loop."""

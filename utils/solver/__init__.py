"""How weights move: parameter groups, learning-rate schedule, run continuation, EMA."""

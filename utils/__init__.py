"""Everything around the detector: data, solver, checkpoints, evaluation, plots, training loop."""

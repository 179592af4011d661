"""Runtime environment of a run: device, distributed training, signals, background jobs."""

"""The machine and the processes of a run: device, distributed training, signals."""

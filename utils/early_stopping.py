"""When a run no longer improves; a pure function of what is known, imports no torch."""

from __future__ import annotations


def epochs_without_gain(epoch: int, best_epoch: int, last_seam: int) -> int:
    """Epochs trained since the best one; at a seam the patience starts afresh.

    Args:
        epoch: the epoch just completed, 0-based.
        best_epoch: epoch with the highest fitness so far; -1 when none was measured.
        last_seam: first epoch after the most recent extension, 0 if there is none.
    """
    return epoch - max(best_epoch, last_seam - 1)


def should_stop(epoch: int, best_epoch: int, last_seam: int, patience: int) -> bool:
    """Whether `patience` epochs (0: endless) went by without a higher fitness."""
    return patience > 0 and epochs_without_gain(epoch, best_epoch, last_seam) >= patience

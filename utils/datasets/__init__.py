"""From files to batches: data-set files, index, augmentation, loaders, the drawn street scenes."""

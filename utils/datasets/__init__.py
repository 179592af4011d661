"""From files to batches: data-set files, index, augmentation and loaders."""

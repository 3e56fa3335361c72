"""From a source of images to batches on a device: sources, store, augmentation, batches."""

"""Image data from a source to batches on a device: sources, decoding, stores, transforms and batches."""

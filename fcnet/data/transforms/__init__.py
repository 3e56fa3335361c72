"""Transforms of image batches: augmentation, mixup, corruptions and whitening."""

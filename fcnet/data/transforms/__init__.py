"""What changes a batch of images: augmentation, mixup, corruptions, whitening."""

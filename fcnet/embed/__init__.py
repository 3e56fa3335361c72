"""Features of images from a frozen network."""

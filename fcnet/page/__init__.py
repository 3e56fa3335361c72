"""Pages: one HTML file each, which opens anywhere, asks nothing of a network and says all without its script."""

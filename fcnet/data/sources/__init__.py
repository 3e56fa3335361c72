"""Data sources: each fingerprints its data and decodes its images when a store is built."""

from fcnet.data.sources.builtin import digits, synthetic
from fcnet.data.sources.cifar import cifar10, cifar100
from fcnet.data.sources.image_folder import images
from fcnet.data.sources.npz import arrays
from fcnet.data.sources.source import Source

__all__ = ["Source", "arrays", "cifar10", "cifar100", "digits", "images", "synthetic"]

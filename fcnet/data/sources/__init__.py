"""Where images come from: each source lists its examples, and reads them when a store is built."""

from fcnet.data.sources.source import Source, arrays, cifar10, cifar100, digits, images, synthetic

__all__ = ["Source", "arrays", "cifar10", "cifar100", "digits", "images", "synthetic"]

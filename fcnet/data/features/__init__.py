"""Labelled feature vectors, such as a frozen network's embeddings of images, read where they lie."""

from fcnet.data.features.splits import FeatureSplit, FeatureSplits, open_features

__all__ = ["FeatureSplit", "FeatureSplits", "open_features"]

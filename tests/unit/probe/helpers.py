"""Features for tests of probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_TRAIN, NUM_TEST, NUM_FEATURES = 120, 60, 6
CLASSES = ("ant", "bee", "cat")


def make_arrays(
    *, classes: int = 3, with_test: bool = True, num_validation: int = 0, noise: float = 2.0
) -> dict[str, Any]:
    """Returns the arrays of a file of features whose classes overlap."""
    draws = np.random.default_rng(0)
    centers = draws.standard_normal((classes, NUM_FEATURES))

    def draw(count: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.str_]]:
        labels = np.arange(count) % classes
        x = 3.0 + centers[labels] + noise * draws.standard_normal((count, NUM_FEATURES))
        return x.astype(np.float32), np.array(CLASSES)[labels]

    splits = {"train": NUM_TRAIN, "val": num_validation, "test": NUM_TEST * with_test}
    arrays: dict[str, Any] = {}
    for split, count in splits.items():
        if count:
            arrays[f"x_{split}"], arrays[f"y_{split}"] = draw(count)
    if with_test:
        arrays["paths_test"] = np.array([f"test/{number}.png" for number in range(NUM_TEST)])
    return arrays


def write_features(file: str = "features.npz", **options: Any) -> Path:
    """Writes a file of features; see `make_arrays`."""
    np.savez(file, **make_arrays(**options))
    return Path(file)

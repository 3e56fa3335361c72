"""Runs for tests of report sections."""

from __future__ import annotations

from pathlib import Path

import torch

from fcnet.config.schema import Config
from fcnet.data.batches import Batches
from fcnet.evaluation.predictions import PredictionCollector
from fcnet.report.run_data import RunData
from tests.helpers import random_classifier, random_images

SHAPE = (1, 2, 2)


def make_run(
    logits: torch.Tensor, labels: list[int], *, with_images: bool = True, names: list[str] | None = None
) -> RunData:
    """A run whose model predicts the given logits (N, C) for N test images."""
    test = Batches(random_images(len(labels), SHAPE), torch.tensor(labels), names=names)
    collector = PredictionCollector(test)
    collector.update(logits, torch.tensor(labels))
    classifier = random_classifier(SHAPE, logits.shape[1])
    predictions = collector.compute()
    return RunData(
        "run",
        Path("run"),
        Config.model_validate({"data": {"path": "my/pets"}}),
        [],
        {},
        classifier=classifier,
        predictions=predictions,
        test=test if with_images else None,
    )

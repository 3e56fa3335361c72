"""Tests of fcnet.evaluation.full_evaluation."""

from __future__ import annotations

import torch

from fcnet.data.batches import Batches
from fcnet.evaluation import PredictionCollector, ScoreCollector, evaluate
from fcnet.evaluation.full_evaluation import evaluate_fully
from fcnet.models.mlp import MLP


def test_one_pass_gives_what_three_passes_give() -> None:
    model = MLP(6, (5,), 7, generator=torch.Generator().manual_seed(1))
    batches = Batches(torch.rand(23, 6), torch.arange(23) % 7, batch_size=5)
    found = evaluate_fully(model, batches)
    predictions, scores = PredictionCollector(batches), ScoreCollector()
    assert found.result == evaluate(model, batches, on_batch=predictions.update)
    evaluate(model, batches, on_batch=scores.update)
    assert found.scores == scores.compute()
    assert torch.equal(found.predictions.probabilities, predictions.compute().probabilities)

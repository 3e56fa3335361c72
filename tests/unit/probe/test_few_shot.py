"""Tests of fcnet.probe.few_shot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import stats

from fcnet.linear_model import fit_path
from fcnet.probe.arguments import Settings
from fcnet.probe.few_shot import FewShotFit, fit_few_shots, summarize
from fcnet.probe.few_shot import test_accuracies as accuracies_on_test
from fcnet.probe.run import ProbeRun
from fcnet.probe.splits import few_shot_rows
from fcnet.probe.training_data import TrainingData, open_training_data
from fcnet.probe.work import Work
from tests.unit.probe.helpers import write_features

SETTINGS = Settings(Cs=(0.01, 0.1, 1.0), shots=(1, 4), repeats=2)


@pytest.fixture
def data(working_folder: Path) -> TrainingData:
    return open_training_data(write_features(), feature_column="embedding", label_column="label")


def fit(data: TrainingData, shots: int, repeat: int) -> FewShotFit:
    run = ProbeRun(Path())
    run.state.mkdir(exist_ok=True)
    x = data.features(normalize=False)
    return fit_few_shots(Work(run, SETTINGS, torch.device("cpu"), save_seconds=1e9), data, x, SETTINGS, shots, repeat)


def test_the_penalty_is_chosen_on_the_held_out_examples_of_the_draw(data: TrainingData) -> None:
    found, x = fit(data, 4, 2), data.parts[0]
    split = few_shot_rows(data, 4, 1, SETTINGS.seed)
    path = fit_path(x[split.rows], data.y[split.rows], SETTINGS.Cs)
    accuracies = path.score(x[split.held_out], data.y[split.held_out])
    assert (found.shots, found.repeat, len(split.held_out)) == (4, 2, 12)
    assert found.validation_accuracy == float(accuracies.max())
    k = SETTINGS.Cs.index(float(found.path.Cs[0]))
    assert torch.equal(found.path.coef[0], path.coef[k])
    assert accuracies[k] == accuracies.max()


def test_accuracies_are_those_of_each_model(data: TrainingData) -> None:
    fits, x = [fit(data, 1, 1), fit(data, 4, 1)], data.parts[0]
    expected = [float(each.path.score(x, data.y)[0]) for each in fits]
    assert accuracies_on_test(fits, x, data.y, normalize=False) == expected
    assert accuracies_on_test(fits, x, data.y, normalize=True) != expected


def test_the_interval_of_the_mean_is_students() -> None:
    values = [0.61, 0.58, 0.66, 0.63, 0.6]
    mean, std, interval = summarize(values)
    assert std is not None
    assert interval == pytest.approx(stats.t.interval(0.95, 4, mean, std / 5**0.5))
    assert summarize([0.5]) == (0.5, None, None)
    assert summarize([0.0, 1.0])[2] == (0.0, 1.0)

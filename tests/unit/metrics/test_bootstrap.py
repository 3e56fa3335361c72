"""Tests of fcnet.metrics.bootstrap: scipy's bootstrap, and one figure at a time, are the oracles."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from fcnet.metrics import Confusion, average_intervals, bootstrap_interval
from fcnet.metrics import bootstrap as module
from fcnet.runtime.errors import UserError


def test_the_interval_is_that_of_scipys_bootstrap() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    low, high = bootstrap_interval(
        np.ones(200, int), lambda counts: counts @ values / 200, generator=np.random.default_rng(1), num_resamples=4000
    )
    name = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"  # before SciPy 1.15
    generator = {name: np.random.default_rng(2)}
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, **generator)
    spread = values.std() / np.sqrt(200)
    # The 2.5% quantile of 4,000 normal numbers has a standard error of 0.042 standard deviations.
    assert [low, high] == pytest.approx(list(theirs.confidence_interval), abs=0.25 * spread)


def test_one_generator_gives_one_interval_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    confusion = Confusion.from_table([[30, 5, 2], [4, 20, 0], [1, 1, 9]])
    expected = average_intervals(confusion, generator=np.random.default_rng(5))
    monkeypatch.setattr(module, "_COUNTS_AT_ONCE", 100)
    assert average_intervals(confusion, generator=np.random.default_rng(5)) == expected
    assert average_intervals(confusion, generator=np.random.default_rng(6)) != expected


@pytest.mark.parametrize("num_classes", [3, 4, 2000])
def test_averages_have_the_quantiles_of_resampled_images(num_classes: int) -> None:
    """Classes without images and predictions, here from the fourth on, count as 0 in macro averages."""
    truth = np.repeat([0, 1, 2], [60, 30, 5])
    rng = np.random.default_rng(3)
    predicted = np.where(rng.random(95) < 0.7, truth, rng.integers(3, size=95))
    found = average_intervals(
        Confusion.from_labels(truth, predicted, num_classes), generator=np.random.default_rng(1), num_resamples=1000
    )
    figures: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(300):
        rows = rng.integers(95, size=95)
        for average in ("macro", "weighted"):
            precision, recall, f1, _ = precision_recall_fscore_support(
                truth[rows], predicted[rows], labels=range(3), average=average, zero_division=0.0
            )
            scale = 3 / num_classes if average == "macro" else 1.0
            figures[f"{average}_precision"].append(precision * scale)
            figures[f"{average}_f1"].append(f1 * scale)
            if average == "macro":
                figures["macro_recall"].append(recall * scale)
        if len(set(truth[rows])) == 3:
            figures["mean_class_accuracy"].append(balanced_accuracy_score(truth[rows], predicted[rows]))
    for name, values in figures.items():
        bounds, spread = np.quantile(values, [0.025, 0.975]), float(np.std(values))
        assert list(found[name]) == pytest.approx(bounds.tolist(), abs=0.45 * spread), name


@pytest.mark.parametrize(
    ("counts", "settings", "message"),
    [
        ([0, 0], {}, "counts must hold at least one example, got 0"),
        ([-1, 2], {}, "counts must be at least 0, got -1"),
        (
            [1, 2],
            {"num_resamples": 0},
            "num_resamples must be at least 1 and confidence .*, got 0 and 0.95",
        ),
        ([1], {"confidence": 1.0}, "num_resamples must be at least 1 and confidence between 0 and 1, got 1000 and 1"),
    ],
)
def test_what_cannot_be_resampled_is_one_sentence(counts: list[int], settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        bootstrap_interval(counts, lambda n: n.sum(1) * 1.0, generator=np.random.default_rng(0), **settings)  # type: ignore[arg-type]

"""Several ranks hold the rows of one problem, and find the minima that one process finds on all rows."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from fcnet.linear_model import SearchStopped, feature_blocks, fit_path, logistic_path, newton, preconditioner
from fcnet.runtime import distributed
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from fcnet.linear_model import LogisticPath, Progress
    from tests.processes import WarmServer

CS = [1e-3, 1.0, 1e3]
N = 240
CLASSES = ["ant", "bee", "cat"]
pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


def draw() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Returns features with an offset, text labels in sorted order, and weights."""
    r = np.random.default_rng(0)
    x, teacher = r.normal(size=(N, 6)), r.normal(size=(6, 3))
    y = (x @ teacher + r.gumbel(size=(N, 3))).argmax(1)
    order = np.argsort(y, kind="stable")
    return 3.0 * x[order] + 5.0, np.array(CLASSES)[y[order]], r.integers(0, 3, N).astype(float)


SPLITS = {
    "even": lambda ranks: np.arange(N) % ranks,
    "uneven": lambda ranks: np.minimum(np.arange(N) // 7, ranks - 1),
    "by class": lambda ranks: np.arange(N) * ranks // N,  # the labels are sorted: ranks lack classes
}
METHODS: dict[str, dict[str, Any]] = {
    "Newton": {},
    "L-BFGS": {"_MOST_PARAMETERS": 0, "_FEW_VALUES": 0},
    "conjugate gradients": {"_MOST_PARAMETERS": 0, "_FEW_VALUES": 1 << 40},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "balanced": {"class_weight": "balanced"},
    "weights by class": {"class_weight": {"ant": 2.0, "cat": 0.5}},
    "no intercept": {"fit_intercept": False},
    "as they are": {"standardize": False},
}
JOBS = [("Newton", option, "even") for option in OPTIONS] + [
    (method, "balanced", split) for method in METHODS for split in SPLITS
]


def fit(method: str, option: str, chosen: np.ndarray[Any, Any]) -> LogisticPath:
    """Fits the chosen rows of this process."""
    x, y, weight = draw()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in METHODS[method].items():
            patch.setattr(newton, name, value)
        return logistic_path(x[chosen], y[chosen], CS, sample_weight=weight[chosen], tol=1e-9, **OPTIONS[option])


def save(path: LogisticPath, file: Path) -> None:
    parts = {name: getattr(path, name) for name in ("coef", "intercept", "objective", "gap", "iterations", "converged")}
    torch.save(parts | {"classes": path.classes.tolist()}, file)


def fit_as_rank(folder: Path, ranks: int) -> None:
    """Joins the others, does all jobs, and asks for what must be refused."""
    with distributed.process_group(torch.device("cpu")):
        own = distributed.rank()
        for number, (method, option, split) in enumerate(JOBS):
            save(fit(method, option, SPLITS[split](ranks) == own), folder / f"{number}-{own}.pt")
        (folder / f"refused-{own}.txt").write_text("\n".join(refusals(own)))
        fit_rows_and_stop(folder, own)
        fit_wide(folder, own)


def refusals(own: int) -> list[str]:
    """Returns the errors where the last rank or the first has something else than the others."""
    x, y, _ = draw()
    spoiled = x.copy()
    spoiled[3, 1] = np.nan
    chosen = np.arange(N) % distributed.world_size() == own
    x, y, spoiled = x[chosen], y[chosen], spoiled[chosen]
    first, last = own == 0, own == distributed.world_size() - 1
    soft = np.full((len(x), 3), 1.0 / 3.0)
    calls: list[dict[str, Any]] = [
        {"x": spoiled},
        {"x": x[:0] if last else x, "y": y[:0] if last else y},
        {"y": y[:-1] if first else y},
        {"y": soft if last else y},
        {"x": x[:, :4] if last else x},
        {"x": x.astype(np.float32) if last else x},
        {"Cs": [1.0] if first else [2.0]},
        {"class_weight": {"dog": 1.0}},
        {"y": np.full(len(y), "ant")},
        {"sample_weight": np.zeros(len(y))},
    ]
    errors = []
    for call in calls:
        try:
            logistic_path(**{"x": x, "y": y, "Cs": CS, **call})
            errors.append("none")
        except UserError as error:
            errors.append(str(error))
    return errors


def fit_rows_and_stop(folder: Path, own: int) -> None:
    """Fits rows of which some ranks have none; stops on the last rank's request; resumes."""
    x, y, _ = draw()
    chosen = torch.arange(N) if own == 0 else torch.arange(0)
    save(fit_path(x, y, CS, rows=chosen, tol=1e-9), folder / f"rows-{own}.pt")
    states: list[dict[str, Any]] = []

    def note(progress: Progress) -> None:
        assert own == 0
        states.append(progress.state())

    passes = iter(range(100))
    share = np.arange(N) % distributed.world_size() == own
    with pytest.raises(SearchStopped):
        fit_path(
            *(x[share], y[share], CS),
            on_pass=note,
            stop=lambda: next(passes) == 2 and own == distributed.world_size() - 1,
            tol=1e-9,
        )
    assert len(states) == (3 if own == 0 else 0)
    resumed = fit_path(x[share], y[share], CS, tol=1e-9, state=states[-1] if states else None)
    save(resumed, folder / f"resumed-{own}.pt")
    save(fit_path(x[share], y[share], CS, tol=1e-9), folder / f"whole-{own}.pt")


def fit_wide(folder: Path, own: int) -> None:
    """Fits features whose covariance is a few directions and a rest, read in several blocks."""
    share = slice(None) if distributed.world_size() == 1 else np.arange(N) % distributed.world_size() == own
    x, y, _ = draw()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in METHODS["L-BFGS"].items():
            patch.setattr(newton, name, value)
        patch.setattr(preconditioner, "_MOST_FEATURES", 2)
        patch.setattr(preconditioner, "_RANK", 3)
        patch.setattr(feature_blocks, "_BLOCK_VALUES", 1)
        patch.setattr(feature_blocks, "_LEAST_ROWS", 50)
        save(logistic_path(x[share], y[share], CS, tol=1e-9), folder / f"wide-{own}.pt")


def run_ranks(warm: WarmServer, folder: Path, ranks: int) -> Path:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launch: dict[str, Any] = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [warm.start(fit_as_rank, folder, ranks, RANK=str(rank), **launch) for rank in range(ranks)]
    for ended in [process.wait() for process in processes]:
        assert ended.code == 0, ended.err
    return folder


@pytest.fixture(scope="module", params=[2, 4])
def results(
    request: pytest.FixtureRequest, warm: WarmServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """The folder of all that some ranks have computed, and their number."""
    return run_ranks(warm, tmp_path_factory.mktemp("ranks"), request.param), request.param


def load(folder: Path, name: object, ranks: int) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in range(ranks)]


def assert_same(found: list[dict[str, Any]], path: LogisticPath) -> None:
    """Checks that the ranks have one result, and that of one process."""
    for each in found[1:]:
        for name, part in found[0].items():
            assert torch.equal(each[name], part) if isinstance(part, torch.Tensor) else each[name] == part
    assert found[0]["classes"] == path.classes.tolist()
    assert_close(found[0]["objective"], path.objective, rtol=1e-9, atol=0.0)
    assert torch.equal(found[0]["converged"], path.converged)
    assert (found[0]["objective"] - path.objective <= found[0]["gap"]).all()
    # The objective bends by 1 in the standardised weights, of which these are a fifth.
    assert ((found[0]["coef"] - path.coef).norm(dim=(1, 2)) <= 2.0 * (2.0 * (found[0]["gap"] + path.gap)).sqrt()).all()


@pytest.mark.parametrize("number", range(len(JOBS)), ids=[" ".join(job) for job in JOBS])
def test_ranks_find_the_minima_of_one_process(results: tuple[Path, int], number: int) -> None:
    folder, ranks = results
    method, option, _ = JOBS[number]
    path = fit(method, option, np.ones(N, bool))
    assert path.converged.all()
    assert_same(load(folder, number, ranks), path)


def test_a_refusal_on_one_rank_ends_all(results: tuple[Path, int]) -> None:
    folder, ranks = results
    errors = [(folder / f"refused-{rank}.txt").read_text().split("\n") for rank in range(ranks)]
    lost = [f"rank {rank} of {ranks} stopped: another rank failed" for rank in range(ranks)]
    own = {  # by call: the ranks that have the mistake
        0: ([3 % ranks], f"x must hold finite numbers, got NaN in row {3 // ranks}"),
        1: ([ranks - 1], "x must hold at least one row and one feature, got the shape (0, 6)"),
        2: ([0], f"y must hold {N // ranks} labels, one for each row of x, got the shape ({N // ranks - 1},)"),
    }
    for call, (wrong, message) in own.items():
        for rank in range(ranks):
            assert errors[rank][call] == (message if rank in wrong else lost[rank])
    same = [
        "all ranks must have the same kind of y, got labels (U) and probabilities of 3 classes",
        "all ranks must have the same number of features, got 6 and 4",
        "all ranks must have the same dtype of x, got torch.float64 and torch.float32",
        "all ranks must have the same Cs, got [1.0] and [2.0]",
        "class_weight must have labels of y, got 'dog'",
        "y must hold at least two classes, got only ant",
        "sample_weight must have a positive entry",
    ]
    for rank in range(ranks):
        assert errors[rank][3:] == same


def test_a_rank_may_have_no_rows_to_fit(results: tuple[Path, int]) -> None:
    folder, ranks = results
    x, y, _ = draw()
    assert_same(load(folder, "rows", ranks), logistic_path(x, y, CS, tol=1e-9))


def test_ranks_stop_together_and_resume_bit_for_bit(results: tuple[Path, int]) -> None:
    folder, ranks = results
    resumed, whole = load(folder, "resumed", ranks), load(folder, "whole", ranks)
    for name in ("coef", "objective", "iterations"):
        assert torch.equal(resumed[0][name], whole[0][name])


def test_wide_features_are_decomposed_together(results: tuple[Path, int], tmp_path: Path) -> None:
    folder, ranks = results
    fit_wide(tmp_path, 0)
    (alone,) = load(tmp_path, "wide", 1)
    found = load(folder, "wide", ranks)
    for each in found:
        assert torch.equal(each["coef"], found[0]["coef"])
        assert_close(each["objective"], alone["objective"], rtol=1e-9, atol=0.0)

"""A probe of several processes finds what one process finds, except for rounding."""

from __future__ import annotations

import csv
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch.distributed as dist

from fcnet.runtime import distributed
from tests.helpers import read_summary, wait_until
from tests.processes import call_command
from tests.unit.probe.helpers import make_arrays, write_features

if TYPE_CHECKING:
    from tests.processes import Ended, WarmProcess, WarmServer

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")
FLAGS = ("features.npz", "--Cs", "1e-4,0.01,10", "--class-weight", "balanced")
PROTOCOLS = {
    "own validation": (*FLAGS, "--l2-normalize", "--shots", "1,3", "--repeats", "2"),
    "folds": (*FLAGS, "--folds", "3"),
}
RESUME_RULE = (
    "--resume needs a run folder that all ranks see, on a shared file system: rank 1 sees another one than rank 0\n"
)
LONG = ("features.npz", "--Cs", "1e2..1e9:200", "--tol", "1e-12", "--save-seconds", "0", "--out", "run")


def probe_as_rank(*arguments: str) -> None:
    """Probes as a rank that waits for others only for seconds."""
    distributed.ANSWER_SECONDS = 10.0
    call_command("probe", *arguments)


def start_ranks(warm: WarmServer, ranks: int, *arguments: str, cwds: tuple[str, ...] = ()) -> list[WarmProcess]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    launch: dict[str, Any] = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    places = [Path(cwd).resolve() for cwd in cwds] or [Path.cwd()] * ranks
    return [warm.start(probe_as_rank, *arguments, cwd=places[rank], RANK=str(rank), **launch) for rank in range(ranks)]


def probe_on(warm: WarmServer, ranks: int, *arguments: str, cwds: tuple[str, ...] = ()) -> list[Ended]:
    return [each.wait() for each in start_ranks(warm, ranks, *arguments, cwds=cwds)]


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def assert_equal_but_for_rounding(run: Path, expected: Path) -> None:
    for name in ("probe.csv", "few_shot.csv"):
        assert (run / name).is_file() == (expected / name).is_file()
        if not (run / name).is_file():
            continue
        for row, wanted in zip(read_csv(run / name), read_csv(expected / name), strict=True):
            for column in row.keys() - {"objective", "gap", "iterations"}:
                if "loss" in column and row[column]:
                    assert float(row[column]) == pytest.approx(float(wanted[column]), rel=1e-6), (name, row)
                else:
                    assert row[column] == wanted[column], (name, row)
            assert float(row["objective"]) == pytest.approx(float(wanted["objective"]), rel=1e-9)
    summary, wanted_summary = read_summary(run), read_summary(expected)
    assert summary["probe"]["C"] == wanted_summary["probe"]["C"]
    for name in ("test_accuracy", "test_images", "validation_accuracy", "train_images", "class_images", "warnings"):
        assert summary[name] == wanted_summary[name]
    assert summary["test_loss"] == pytest.approx(wanted_summary["test_loss"], rel=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ranks_find_what_one_process_finds(protocol: str, working_folder: Path, warm: WarmServer) -> None:
    write_features(num_validation=30 * (protocol == "own validation"))
    for ranks in (1, 2, 4):
        for rank, ended in enumerate(probe_on(warm, ranks, *PROTOCOLS[protocol], "--out", str(ranks))):
            assert (ended.code, ended.err) == (0, "")
            assert ("test accuracy" in ended.out) == (rank == 0)
        if ranks > 1:
            assert_equal_but_for_rounding(Path(str(ranks)), Path("1"))
            assert {file.name for file in Path(str(ranks)).iterdir()} == {file.name for file in Path("1").iterdir()}
        assert read_summary(str(ranks))["ranks"] == ranks
    assert "2 processes" in Path("2/report.html").read_text()


def test_a_mistake_ends_every_rank_with_one_line(working_folder: Path, warm: WarmServer) -> None:
    write_features()
    broken = make_arrays()
    broken["x_train"][3, 2] = np.nan
    np.savez("nan.npz", **broken)
    Path("test").mkdir()
    for name, array in make_arrays().items():
        np.save(f"test/{name}.npy", array)
    Path("test/x_test.npy").write_bytes(b"broken")
    for arguments, message in {
        ("features.npz", "--folds", "1"): "--folds must be at least 2, got 1",
        ("nan.npz",): "x_train in nan.npz must hold finite numbers, got NaN in row 3",
        ("features.npz", "--shots", "99"): "--shots 99 needs 103 training examples of each class, 99 to fit and 4 ",
        ("test", "--Cs", "0.01"): "test/x_test.npy must be a whole NumPy array (.npy), got: ",
    }.items():
        for ended in probe_on(warm, 2, *arguments, "--out", "run"):
            assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
            assert ended.err.startswith(message)
    # What was fitted before the test split was opened is kept, and resumes on any number of ranks.
    np.save("test/x_test.npy", make_arrays()["x_test"])
    (ended,) = probe_on(warm, 1, "--resume", "run")
    assert ended.code == 0
    assert "note: the run began with ranks 2 and continues with 1; " in ended.out


def test_ranks_that_see_other_features_or_another_run_are_told(working_folder: Path, warm: WarmServer) -> None:
    for folder, noise in (("0", 2.0), ("1", 3.0)):
        Path(folder).mkdir()
        write_features(f"{folder}/features.npz", noise=noise)
    for ended in probe_on(warm, 2, *FLAGS, cwds=("0", "1")):
        assert (ended.code, ended.err) == (
            2,
            "features.npz must hold the same examples on all ranks: rank 1 sees others than rank 0\n",
        )
    assert not Path("0/runs").exists()
    write_features("1/features.npz")
    # Only the first rank needs to see the folder of a new run.
    assert [each.code for each in probe_on(warm, 2, *FLAGS, "--out", "run", cwds=("0", "1"))] == [0, 0]
    assert not Path("1/run").exists()
    Path("0/run/summary.json").unlink()
    for ended in probe_on(warm, 2, *FLAGS, "--out", "run", "--resume", cwds=("0", "1")):
        assert (ended.code, ended.err) == (
            2,
            RESUME_RULE,
        )


@pytest.mark.parametrize("signalled", [0, 1])
def test_one_signal_stops_and_saves_all_ranks(signalled: int, working_folder: Path, warm: WarmServer) -> None:
    write_features()
    ranks = start_ranks(warm, 2, *LONG)
    assert wait_until(lambda: list(Path("run/state").glob("search-*.json")), ranks[0])
    ranks[signalled].send_signal(signal.SIGTERM)
    ended = [rank.wait() for rank in ranks]
    assert [(each.code, each.err) for each in ended] == [(143, ""), (143, "")]
    assert ended[0].out.endswith("stopped and saved; resume with: python -m fcnet.probe --resume run\n")
    assert "stopped" not in ended[1].out
    assert list(Path("run/state").glob("search-*.json"))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_rank_ends_the_others_with_one_line(lost: int, working_folder: Path, warm: WarmServer) -> None:
    write_features()
    ranks = start_ranks(warm, 2, *LONG)
    assert wait_until(lambda: list(Path("run/state").glob("search-*.json")), ranks[0])
    ranks[lost].send_signal(signal.SIGKILL)
    ended = ranks[1 - lost].wait()
    ranks[lost].wait()
    assert ended.code == 2
    assert re.fullmatch(
        rf"rank {1 - lost} of 2 stopped: another rank (ended|did not answer for 10 s); "
        r"resume with: python -m fcnet\.probe --resume run\n",
        ended.err,
    )


def test_killed_ranks_resume_to_the_same_bytes(working_folder: Path, warm: WarmServer) -> None:
    write_features(num_validation=30)
    flags = (*FLAGS, "--folds", "3", "--shots", "1", "--repeats", "2", "--save-seconds", "0")
    assert [each.code for each in probe_on(warm, 2, *flags, "--out", "whole")] == [0, 0]
    for moment in ("search-*.json", "split-2.json"):
        ranks = start_ranks(warm, 2, *flags, "--out", "killed", *["--resume"] * Path("killed").exists())
        assert wait_until(lambda moment=moment: list(Path("killed/state").glob(moment)), ranks[0])  # type: ignore[misc]
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert [(each.code, each.err) for each in probe_on(warm, 2, "--resume", "killed")] == [(0, "")] * 2
    for name in ("probe.csv", "few_shot.csv", "model.safetensors", "predictions.safetensors"):
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes(), name

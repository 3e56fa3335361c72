"""Tests of fcnet.report.progress: what the files of a run say at each moment of its life, and the page of it."""

from __future__ import annotations

import re
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fcnet.config.toml import dump_config, load_config
from fcnet.experiment.build import build
from fcnet.experiment.run_folder import Run
from fcnet.report import progress
from fcnet.report.progress import (
    common_epochs,
    describe_state,
    file_versions,
    key_figures,
    progress_page,
    read_progress,
)
from fcnet.runtime.errors import UserError
from tests.helpers import advance_run, make_record, make_snapshot, read_tree

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = """
[data]
source = "synthetic"
shape = [1, 4, 4]
train_size = 40
test_size = 10
num_classes = 3
[model]
hidden = [4]
[train]
epochs = 4
batch_size = 10
"""


def make_run(folder: Path, *changes: str) -> Run:
    file = folder / "made.toml"
    file.write_text(CONFIG)
    return Run.create(folder / "run", "run", dump_config(load_config(file, changes)))


def write_epochs(run: Run, count: int, **changes: Any) -> None:
    run.write_records([make_record(epoch, seconds=2.0, **changes) for epoch in range(1, count + 1)])


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<(style|script)>.*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def state_of(run: Run) -> str:
    return read_progress(run.path).state


def test_a_run_has_a_state_at_each_moment_of_its_life(tmp_path: Path, isolated_cache: None) -> None:
    run = make_run(tmp_path)
    assert state_of(run) == "stopped"
    with run.lock():
        assert state_of(run) == "training"
        write_epochs(run, 3)
        assert state_of(run) == "training"
        write_epochs(run, 4)
        assert state_of(run) == "evaluating"
    write_epochs(run, 3)
    assert state_of(run) == "stopped"
    shutil.rmtree(run.path)
    run = make_run(tmp_path)
    advance_run(build(run.load_config(), torch.device("cpu")), run)
    with run.lock():
        assert state_of(run) == "evaluating"  # the report is still to come
        (run.path / "report.html").write_text("")
        assert state_of(run) == "finished"
    (run.path / "report.html").unlink()
    assert state_of(run) == "finished"
    run.change_config(
        run.load_config().model_copy(update={"train": run.load_config().train.model_copy(update={"epochs": 5})})
    )
    assert state_of(run) == "stopped"
    with run.lock():
        assert state_of(run) == "training"


def test_reading_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_epochs(run, 2)
    with run.lock():
        before = read_tree(run.path)
        read_progress(run.path)
        assert read_tree(run.path) == before


def test_a_run_that_is_written_meanwhile_is_read_as_it_was_at_one_moment(tmp_path: Path) -> None:
    run = make_run(tmp_path, "train.epochs=1000")
    stop = threading.Event()

    def write() -> None:
        epoch = 0
        while not stop.is_set():
            epoch += 1
            write_epochs(run, epoch % 30)
            run.write_snapshots([make_snapshot(each) for each in range(epoch % 7)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(150):
            seen = read_progress(run.path).run
            assert [record["epoch"] for record in seen.records] == list(range(1, len(seen.records) + 1))
    finally:
        stop.set()
        writer.join()


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^RUN must be a run folder, got .*none: no such folder; a training makes it "):
        read_progress(tmp_path / "none")
    with pytest.raises(UserError, match=r"^RUN must be a run folder, got .*: it holds no config.toml$"):
        read_progress(tmp_path)


def test_any_change_of_a_file_or_of_the_trainer_is_noticed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    seen = [file_versions(run.path), file_versions(run.path)]
    write_epochs(run, 1)
    seen.append(file_versions(run.path))
    for loss in (1.25, 1.75):  # as many bytes, in the records and in their checksums
        write_epochs(run, 1, train_loss=loss)
        seen.append(file_versions(run.path))
    with run.lock():
        seen.append(file_versions(run.path))
    assert seen[0] == seen[1]
    assert len(set(seen)) == 5
    assert file_versions(tmp_path / "none") == (None,) * 7


def test_states_are_described(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_epochs(run, 2)
    assert describe_state(read_progress(run.path)) == "stopped after epoch 2 of 4"
    with run.lock():
        assert re.fullmatch(r"in training, epoch 3 of 4 \(process \d+ on .*\)", describe_state(read_progress(run.path)))
        run.checkpoints.save(1200, {"a": torch.zeros(1)}, {})
    assert describe_state(read_progress(run.path)) == "stopped after epoch 2 of 4, with a checkpoint of step 1,200"


def figures_of(run: Run) -> dict[str, tuple[str, str]]:
    with run.lock():
        return {label: (figure, note) for label, figure, note in key_figures(read_progress(run.path))}


def test_key_figures_are_those_of_the_last_epoch_the_best_one_and_the_rest(tmp_path: Path) -> None:
    run = make_run(tmp_path, "train.epochs=50")
    assert figures_of(run) == {"epochs": ("0 of 50", "")}
    run.write_records(
        [
            make_record(1, validation_accuracy=0.9, seconds=100.0),
            *(make_record(epoch, validation_accuracy=0.8, seconds=30.0) for epoch in range(2, 12)),
        ]
    )
    figures = figures_of(run)
    assert figures["validation accuracy"] == ("80.00%", "highest: 90.00% in epoch 1")
    assert figures["training left"] == ("about 19 min 30 s", "39 epochs of 30.0 s")
    shutil.rmtree(run.path)
    run = make_run(tmp_path, "train.patience=2")
    write_epochs(run, 3)
    assert figures_of(run)["training left"] == ("at most 2.0 s", "1 epoch of 2.0 s")


def test_a_loss_that_is_not_finite_is_a_dash_and_a_gap(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_epochs(run, 2, train_loss=None, validation_loss=None, validation_accuracy=None)
    assert figures_of(run)["training loss"][0] == "–"
    assert "validation loss" not in figures_of(run)
    assert "NaN" not in progress_page(read_progress(run.path))


def test_the_page_loads_itself_again_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "RELOAD_SECONDS", 7)
    run = make_run(tmp_path)
    write_epochs(run, 2)
    run.write_snapshots([make_snapshot(epoch) for epoch in (0, 2)])
    page = progress_page(read_progress(run.path))
    assert '<noscript><meta http-equiv="refresh" content="7"></noscript>' in page
    assert 'data-watch="7"' in page
    assert "Stopped after epoch 2 of 4." in text_of(page)
    for title in ("Loss", "Accuracy", "Learning rate", "Images per second", "Layer statistics", "After epoch 2"):
        assert f">{title}<" in page
    ended = progress_page(read_progress(run.path), ended="The run is finished.", report="report.html")
    assert 'http-equiv="refresh"' not in ended
    assert 'data-watch="0"' in ended
    assert '<a href="report.html">' in ended
    assert "The run is finished." in text_of(ended)


def test_a_long_run_has_a_small_page(tmp_path: Path) -> None:
    sizes = {}
    for epochs in (500, 501, 5000):
        run = make_run(tmp_path, "train.epochs=9000")
        write_epochs(run, epochs)
        page = progress_page(read_progress(run.path))
        sizes[epochs] = len(page)
        table = page.split("<tbody>")[1].split("</tbody>")[0]
        rows = re.findall(r'<tr><th scope="row">([\d,]+)<', table)
        assert len(rows) == (500 if epochs != 501 else 251)
        assert int(rows[-1].replace(",", "")) == epochs
        drawn = {500: None, 501: "One epoch of 2 is drawn", 5000: "One epoch of 10 is drawn"}[epochs]
        assert drawn is None or drawn in text_of(page)
        assert ("is drawn" in page) == (drawn is not None)
        assert f"{epochs:,} of 9,000" in text_of(page)
        shutil.rmtree(run.path)
    assert sizes[5000] < 1.1 * sizes[500]


def test_a_run_without_an_epoch_has_a_page(tmp_path: Path) -> None:
    assert "No epoch has finished yet." in progress_page(read_progress(make_run(tmp_path).path))


def test_records_are_common_up_to_the_first_that_differs() -> None:
    records = [make_record(epoch) for epoch in range(1, 5)]
    assert common_epochs(records, records) == 4
    assert common_epochs(records[:2], records) == 2
    assert common_epochs(records, [*records[:1], make_record(2, seconds=9.0), *records[2:]]) == 1
    assert common_epochs([], records) == 0


@pytest.mark.parametrize(("select", "best"), [("macro_f1", "62.50% in epoch 2"), ("brier_score", "0.2500 in epoch 1")])
def test_the_figure_that_selects_is_a_key_figure(select: str, best: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, f"train.select={select}")
    run.write_records(
        [make_record(epoch, validation_score=score) for epoch, score in ((1, 0.25), (2, 0.625), (3, 0.5))]
    )
    label = {"macro_f1": "validation macro F1", "brier_score": "validation Brier score"}[select]
    last = "50.00%" if select == "macro_f1" else "0.5000"
    assert (label, last, f"best: {best}") in key_figures(read_progress(run.path))

"""Archives of images in the commands: training, evaluating and predicting give what the unpacked folder gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcnet import evaluate, predict, train
from tests.helpers import command_output, run_command, write_noise_images
from tests.unit.data.sources.image_trees import write_zip

if TYPE_CHECKING:
    import pytest

CONFIG = """\
[data]
source = "images"
path = "pets"
[model]
hidden = [8]
[train]
epochs = 2
batch_size = 16
"""
TIMES = {"seconds", "images_per_second"}


def figures_of(run: str) -> list[dict[str, Any]]:
    lines = Path(run, "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def judge(*data: str) -> dict[str, Any]:
    command_output(evaluate.main, "folder", *data)
    content: dict[str, Any] = json.loads(Path("folder/evaluation.json").read_bytes())
    return {name: content[name] for name in ("accuracy", "loss")}


def predictions_of(path: str, folder: str) -> list[tuple[str, float]]:
    """Returns the names below a folder with their probabilities."""
    rows = json.loads(command_output(predict.main, "folder", path, "--json"))
    return sorted(
        (row["path"].removeprefix(folder), row["probability"]) for row in rows if row["path"].startswith(folder)
    )


def test_a_zip_archive_with_a_class_that_is_a_link_trains_and_is_judged_as_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FCNET_CACHE", str(tmp_path / "cache"))
    write_noise_images("pets", ("ant", "bee", "cat"), {"train": 12, "test": 6})
    Path("pets/train/cat").rename("pets/train/.felines")
    Path("pets/train/cat").symlink_to(".felines")
    Path("pets.toml").write_text(CONFIG, encoding="utf-8")
    write_zip(Path("packed"), Path("pets"), sorted(str(path.relative_to("pets")) for path in Path("pets").rglob("*")))
    assert command_output(train.main, "--config", "pets.toml", "--out", "folder").count("in 3 classes") == 1
    code, _, err = run_command(
        train.main, "--config", "pets.toml", "--out", "archive", "--set", f"data.path={tmp_path}/packed"
    )
    assert (code, err) == (0, "")
    assert figures_of("archive") == figures_of("folder")
    assert judge() == judge("--data", "pets") == judge("--data", "packed")
    assert predictions_of("packed", "packed/train/") == predictions_of("pets/train", "pets/train/")

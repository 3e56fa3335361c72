"""Exported files give the network's probabilities where there is no fcnet, and their card's programs run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fcnet
from fcnet import cli, predict, train
from fcnet.experiment import tensorboard
from fcnet.export import __main__ as export

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from fcnet.training.records import EpochRecord

# In a process that runs this first, whatever is installed there, fcnet cannot be imported.
WITHOUT_FCNET = """
import sys
sys.modules["fcnet"] = None
try:
    import fcnet.models.mlp
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("fcnet can be imported")
"""
PICTURES = """\
[data]
source = "images"
path = "pets"
size = [6, 5]
[model]
hidden = [8]
[train]
epochs = 1
"""


def alone(program: str, folder: Path) -> str:
    """What a program says in a fresh process without fcnet, its folder and its variables."""
    result = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", WITHOUT_FCNET + program],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two finished runs: ``digits``, and ``pets``, whose pictures of all sizes were brought to one."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    draws = np.random.default_rng(0)
    for split, name, number in [(s, n, i) for s in ("train", "test") for n in ("cat", "dog") for i in range(8)]:
        file = folder / "pets" / split / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(256, size=(9 + number, 12, 3), dtype=np.uint8)).save(file)
    (folder / "pets.toml").write_text(PICTURES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FCNET_CACHE", str(folder / "cache"))
        assert train.main(["--config", "digits", "--set", "train.epochs=2", "--out", "digits"]) == 0
        assert train.main(["--config", "pets.toml", "--out", "pets-run"]) == 0
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def thousand_digits() -> npt.NDArray[np.uint8]:
    from sklearn.datasets import load_digits

    images: npt.NDArray[np.uint8] = np.round(load_digits().images[:1000, None] * (255 / 16)).astype(np.uint8)
    return images


def test_a_pt2_file_agrees_on_1000_images_in_a_process_without_fcnet(runs: Path, here: Path) -> None:
    assert export.main([str(runs / "digits"), "digits.pt2"]) == 0
    np.save("digits.npy", thousand_digits())
    program = """
    import numpy as np, torch
    run = torch.export.load("digits.pt2").module()
    np.save("probabilities.npy", run(torch.from_numpy(np.load("digits.npy"))).numpy())
    """
    alone(textwrap.dedent(program), here)
    expected = fcnet.load(runs / "digits").predict_proba(torch.from_numpy(thousand_digits()))
    np.testing.assert_allclose(np.load("probabilities.npy"), expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("here")
def test_an_onnx_file_agrees_on_1000_images(runs: Path) -> None:
    assert export.main([str(runs / "digits"), "digits.onnx"]) == 0
    (came,) = onnxruntime.InferenceSession("digits.onnx").run(None, {"pixels": thousand_digits()})
    expected = fcnet.load(runs / "digits").predict_proba(torch.from_numpy(thousand_digits()))
    np.testing.assert_allclose(came, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("run", "size"), [("digits", (8, 8)), ("pets-run", (31, 17))])
def test_the_programs_of_a_card_say_what_predict_says(
    runs: Path, here: Path, run: str, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(1).integers(256, size=(*size, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).convert("L" if run == "digits" else "RGB")
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    picture.save("IMAGE.png", exif=exif)
    for name in ("x.pt2", 'a "b".onnx'):
        assert export.main([str(runs / run), name]) == 0
    capsys.readouterr()
    assert predict.main([str(runs / run), "IMAGE.png", "--json"]) == 0
    (expected,) = json.loads(capsys.readouterr().out)
    programs = re.findall("```python\n(.*?)```", (here / "README.md").read_text(), re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        name, probability = alone(program, here).split()
        assert name == expected["class"]
        assert float(probability) == pytest.approx(expected["probability"], abs=1e-5)


def test_export_says_what_it_wrote_and_where(runs: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(runs / "digits"), "digits.pt2", "--license", "mit"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"digits\.pt2: uint8 pixels \(B, 1, 8, 8\) to probabilities \(B, 10\), [\d,]+ bytes; "
        r"at most \d\.\de-\d\d from the network's; card: README\.md\n",
        said,
    )
    assert {file.name for file in here.iterdir()} == {"digits.pt2", "README.md"}
    assert '\nlicense: "mit"\n' in (here / "README.md").read_text()


def test_nothing_is_written_where_a_readme_of_somebody_elses_lies(
    runs: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "README.md").write_text("# Mine\n")
    monkeypatch.setattr(sys, "argv", ["export", str(runs / "digits"), "digits.pt2"])
    with pytest.raises(SystemExit) as leaving:
        cli.run_command(export.main)
    assert leaving.value.code == 2
    said = "README.md must be a model card as fcnet wrote it, got another file; export into another folder\n"
    assert capsys.readouterr().err == said
    assert [(file.name, file.read_text()) for file in here.iterdir()] == [("README.md", "# Mine\n")]


@pytest.mark.usefixtures("here")
def test_a_run_without_what_the_card_is_made_of_is_refused(runs: Path) -> None:
    shutil.copytree(runs / "digits", "digits")
    Path("digits/summary.json").unlink()
    with pytest.raises(fcnet.UserError, match=r"digits must hold config\.toml and summary\.json, of which the card is"):
        export.main(["digits", "digits.pt2"])


# --- TensorBoard ------------------------------------------------------------------------------------------------


def steps_in(run: str) -> list[int]:
    """The steps of the training loss, as TensorBoard shows them."""
    return [event.step for event in EventAccumulator(run).Reload().Scalars("loss/train")]


def recorded(run: str) -> list[int]:
    return [json.loads(line)["step"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("here", "isolated_cache")
def test_train_leaves_events_of_each_epoch_in_the_runs_folder() -> None:
    given = ["--config", "digits", "--set", "train.epochs=3", "--out", "run"]
    assert train.main([*given, "--tensorboard"]) == 0
    assert steps_in("run") == recorded("run") == [21, 42, 63]


@pytest.mark.usefixtures("here", "isolated_cache")
@pytest.mark.parametrize("save_seconds", [0, 1000])  # the last checkpoint is of the third epoch, or there is none
def test_a_killed_run_that_is_gone_on_with_has_no_step_twice(
    save_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["--set", "train.epochs=4", "--set", f"train.save_seconds={save_seconds}"]
    given = ["--config", "digits", *changes, "--out", "run"]

    class Killed(BaseException):
        pass

    add = tensorboard.EventLog.add

    def killed_in_the_third(log: tensorboard.EventLog, record: EpochRecord) -> None:
        add(log, record)
        if record.epoch == 3:
            raise Killed

    monkeypatch.setattr(tensorboard.EventLog, "add", killed_in_the_third)
    with pytest.raises(Killed):
        train.main([*given, "--tensorboard"])
    monkeypatch.setattr(tensorboard.EventLog, "add", add)
    assert steps_in("run") == [21, 42, 63]
    assert train.main(["--resume", "--out", "run"]) == 0
    assert steps_in("run") == recorded("run") == [21, 42, 63, 84]


@pytest.mark.usefixtures("here")
def test_a_finished_run_gets_its_events_afterwards(runs: Path) -> None:
    shutil.copytree(runs / "digits", "digits")
    assert train.main(["--resume", "--out", "digits", "--tensorboard"]) == 0
    assert steps_in("digits") == recorded("digits")


@pytest.mark.usefixtures("here")
def test_without_tensorboard_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(fcnet.UserError, match="TensorBoard events need the tensorboard package: pip install"):
        train.main(["--config", "digits", "--tensorboard"])

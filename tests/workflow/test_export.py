"""Exported files run without fcnet, and so do the programs of their model cards; TensorBoard events."""

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
from tests.helpers import read_records

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from fcnet.training.records import EpochRecord

# Makes fcnet impossible to import, even if it is installed.
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
PETS = """\
[data]
source = "images"
path = "pets"
size = [6, 5]
[model]
hidden = [8]
[train]
epochs = 1
"""


def run_without_fcnet(program: str, folder: Path) -> str:
    """Runs a program in an isolated process in which fcnet cannot be imported; returns its output."""
    from_torch = "ignore:The given buffer is not writable:UserWarning"  # raised by torch before 2.14
    result = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-W", from_torch, "-c", WITHOUT_FCNET + program],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two finished runs: ``digits``, and ``pets-run``, which resized its images."""
    folder = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    rng = np.random.default_rng(0)
    for split, name, number in [(s, n, i) for s in ("train", "test") for n in ("cat", "dog") for i in range(8)]:
        file = folder / "pets" / split / name / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(9 + number, 12, 3), dtype=np.uint8)).save(file)
    (folder / "pets.toml").write_text(PETS)
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


def test_a_pt2_file_gives_the_models_probabilities_without_fcnet(runs: Path, here: Path) -> None:
    assert export.main([str(runs / "digits"), "digits.pt2"]) == 0
    np.save("digits.npy", thousand_digits())
    program = """
    import numpy as np, torch
    model = torch.export.load("digits.pt2").module()
    np.save("probabilities.npy", model(torch.from_numpy(np.load("digits.npy"))).numpy())
    """
    run_without_fcnet(textwrap.dedent(program), here)
    expected = fcnet.load(runs / "digits").predict_proba(torch.from_numpy(thousand_digits()))
    np.testing.assert_allclose(np.load("probabilities.npy"), expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("here")
def test_an_onnx_file_gives_the_models_probabilities(runs: Path) -> None:
    assert export.main([str(runs / "digits"), "digits.onnx"]) == 0
    (probabilities,) = onnxruntime.InferenceSession("digits.onnx").run(None, {"pixels": thousand_digits()})
    expected = fcnet.load(runs / "digits").predict_proba(torch.from_numpy(thousand_digits()))
    np.testing.assert_allclose(probabilities, expected.numpy(), rtol=0, atol=1e-5)


def test_export_says_the_opset_in_the_line_the_file_and_the_card(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(runs / "digits"), "digits.onnx", "--opset", "18"]) == 0
    assert ", ONNX opset 18; probabilities within" in capsys.readouterr().out
    assert "With onnxruntime (opset 18), numpy and pillow:" in (here / "README.md").read_text()
    (probabilities,) = onnxruntime.InferenceSession("digits.onnx").run(None, {"pixels": thousand_digits()})
    expected = fcnet.load(runs / "digits").predict_proba(torch.from_numpy(thousand_digits()))
    np.testing.assert_allclose(probabilities, expected.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("run", "size"), [("digits", (8, 8)), ("pets-run", (31, 17))])
def test_the_programs_of_a_card_agree_with_predict(
    runs: Path, here: Path, run: str, size: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(1).integers(256, size=(*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert("L" if run == "digits" else "RGB")
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by a quarter turn
    image.save("IMAGE.png", exif=exif)
    for name in ("x.pt2", 'a "b".onnx'):
        assert export.main([str(runs / run), name]) == 0
    capsys.readouterr()
    assert predict.main([str(runs / run), "IMAGE.png", "--json"]) == 0
    (expected,) = json.loads(capsys.readouterr().out)
    programs = re.findall("```python\n(.*?)```", (here / "README.md").read_text(), re.DOTALL)
    assert len(programs) == 2
    for program in programs:
        name, probability = run_without_fcnet(program, here).split()
        assert name == expected["class"]
        assert float(probability) == pytest.approx(expected["probability"], abs=1e-5)


def test_export_prints_the_files_and_writes_the_licence(
    runs: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main([str(runs / "digits"), "digits.pt2", "--license", "mit"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(
        r"digits\.pt2: uint8 pixels \(B, 1, 8, 8\) to probabilities \(B, 10\), [\d,]+ bytes; "
        r"probabilities within \d\.\de-\d\d of the model's; card: README\.md\n",
        printed,
    )
    assert {file.name for file in here.iterdir()} == {"digits.pt2", "README.md"}
    assert '\nlicense: "mit"\n' in (here / "README.md").read_text()


def test_export_does_not_replace_a_readme_that_it_did_not_write(
    runs: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "README.md").write_text("# Mine\n")
    monkeypatch.setattr(sys, "argv", ["export", str(runs / "digits"), "digits.pt2"])
    with pytest.raises(SystemExit) as exit_info:
        cli.run_command(export.main)
    assert exit_info.value.code == 2
    message = "README.md already exists and is not an unedited model card by fcnet; export to another folder\n"
    assert capsys.readouterr().err == message
    assert [(file.name, file.read_text()) for file in here.iterdir()] == [("README.md", "# Mine\n")]


@pytest.mark.usefixtures("here")
def test_a_run_without_the_data_for_its_card_is_refused(runs: Path) -> None:
    shutil.copytree(runs / "digits", "digits")
    Path("digits/config.toml").unlink()
    with pytest.raises(
        fcnet.UserError, match=r"^RUN must contain config\.toml and summary\.json for the model card, got digits$"
    ):
        export.main(["digits", "digits.pt2"])


# --- TensorBoard ------------------------------------------------------------------------------------------------


def logged_steps(run: str) -> list[int]:
    """The steps of the logged training loss, as TensorBoard shows them."""
    return [event.step for event in EventAccumulator(run).Reload().Scalars("loss/train")]


def recorded_steps(run: str) -> list[int]:
    return [record["step"] for record in read_records(run)]


@pytest.mark.usefixtures("here", "isolated_cache")
def test_train_logs_each_epoch_to_the_run_folder() -> None:
    arguments = ["--config", "digits", "--set", "train.epochs=3", "--out", "run"]
    assert train.main([*arguments, "--tensorboard"]) == 0
    assert logged_steps("run") == recorded_steps("run") == [21, 42, 63]


@pytest.mark.usefixtures("here", "isolated_cache")
@pytest.mark.parametrize("save_seconds", [0, 1000])  # the last checkpoint is that of the third epoch, or none
def test_a_killed_and_resumed_run_logs_no_step_twice(save_seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["--set", "train.epochs=4", "--set", f"train.save_seconds={save_seconds}"]
    arguments = ["--config", "digits", *changes, "--out", "run"]

    class Killed(BaseException):
        pass

    add = tensorboard.EventLog.add

    def kill_in_the_third_epoch(log: tensorboard.EventLog, record: EpochRecord) -> None:
        add(log, record)
        if record.epoch == 3:
            raise Killed

    monkeypatch.setattr(tensorboard.EventLog, "add", kill_in_the_third_epoch)
    with pytest.raises(Killed):
        train.main([*arguments, "--tensorboard"])
    monkeypatch.setattr(tensorboard.EventLog, "add", add)
    assert logged_steps("run") == [21, 42, 63]
    assert train.main(["--resume", "--out", "run"]) == 0
    assert logged_steps("run") == recorded_steps("run") == [21, 42, 63, 84]


@pytest.mark.usefixtures("here")
def test_resuming_a_finished_run_logs_its_epochs(runs: Path) -> None:
    shutil.copytree(runs / "digits", "digits")
    assert train.main(["--resume", "--out", "digits", "--tensorboard"]) == 0
    assert logged_steps("digits") == recorded_steps("digits")


@pytest.mark.usefixtures("here")
def test_without_tensorboard_the_error_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(fcnet.UserError, match="TensorBoard events need the tensorboard package: pip install"):
        train.main(["--config", "digits", "--tensorboard"])

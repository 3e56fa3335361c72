"""The command embed: features from images and a frozen network, mistakes in one line, killed and resumed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fcnet import __main__ as fcnet_command
from fcnet.data.features import open_features
from fcnet.embed import __main__ as embed
from fcnet.embed.feature_folder import unfinished_folder
from fcnet.export.formats import export_classifier
from fcnet.runtime.files import read_json
from tests.helpers import (
    command_output,
    preserve_process_state,
    random_classifier,
    read_tree,
    run_command,
    start_python,
    wait_until,
    write_image_folder,
)

RESNET = ("--backbone", "torchvision:resnet18", "--weights", "random", "--size", "32")


@pytest.fixture
def images(working_folder: Path) -> Path:
    """The folder ``pets`` of colour images, and the exported network ``net.pt2`` that takes images of their size."""
    draws = np.random.default_rng(0)
    write_image_folder(
        "pets",
        ("ant", "bee"),
        {"train": 4, "test": 3},
        lambda *_: draws.integers(256, size=(6, 8, 3), dtype=np.uint8),
    )
    export_classifier(random_classifier((3, 6, 8), 3), Path("net.pt2"))
    return working_folder


def test_a_folder_of_photos_becomes_features(images: Path) -> None:
    out = command_output(embed.main, "pets", *RESNET, "--out", "features")
    assert re.fullmatch(r"features: train 8 × 512, test 6 × 512 features in [\d.]+ s \([\d,]+ images/s\)\n", out)
    assert np.load("features/x_train.npy").shape == (8, 512)
    assert np.load("features/y_test.npy").tolist() == [0, 0, 0, 1, 1, 1]
    assert np.load("features/classes.npy").tolist() == ["ant", "bee"]
    opened = open_features(Path("features"))
    assert (opened.classes, opened.notes, opened.train.x.shape) == (("ant", "bee"), (), (8, 512))
    assert opened.test is not None
    assert list(opened.test.names or []) == [f"test/{name}/{i}.png" for name in ("ant", "bee") for i in range(3)]
    metadata = read_json(Path("features/metadata.json"))
    assert metadata["source"] == "pets"
    assert metadata["backbone"]["name"] == "torchvision:resnet18"
    assert metadata["backbone"]["weights"] == "random, seed 0"
    assert {"fcnet", "torch", "torchvision", "pillow"} <= metadata["versions"].keys()
    assert str(images) not in Path("features/metadata.json").read_text()


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_our_exported_network_gives_the_probabilities_of_predict_images(images: Path, suffix: str) -> None:
    classifier = random_classifier((3, 6, 8), 3)
    export_classifier(classifier, Path(f"net.{suffix}"))
    command_output(embed.main, "pets", "--backbone", f"net.{suffix}", "--out", "features")
    paths = Path("features/paths_test.txt").read_text().splitlines()
    expected = [
        prediction.probabilities for prediction in classifier.predict_images([f"pets/{path}" for path in paths])
    ]
    np.testing.assert_allclose(np.load("features/x_test.npy"), expected, atol=1e-6, rtol=1e-5)


def test_it_is_a_command_of_fcnet(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fcnet_command.COMMANDS["embed"][0] == embed.__name__
    help_line = re.escape(fcnet_command.COMMANDS["embed"][1])
    assert re.search(rf"embed +{help_line}", fcnet_command.help_text("fcnet"))


def test_files_that_are_not_used_and_broken_images_are_counted(images: Path) -> None:
    Path("pets/train/ant/notes.txt").touch()
    Path("pets/train/ant/1.png").write_bytes(b"broken")
    code, _, error = run_command(embed.main, "pets", "--backbone", "net.pt2", "--out", "features")
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("train/ant/1.png in pets must be an image")
    other = command_output(embed.main, "pets", "--backbone", "net.pt2", "--out", "skipped", "--skip-broken")
    assert "note: not used: 1 file without an image suffix (train/ant/notes.txt)" in other
    assert "note: 1 unreadable image skipped, listed in metadata.json; the first: train/ant/1.png must be" in other
    assert "skipped: train 7 × 3, test 6 × 3 features" in other


KILLED = ("pets.npz", "--batch-size", "4", "--device", "cpu", *RESNET)


def test_a_killed_command_resumes_to_the_same_bytes(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in the other process
    x = np.random.default_rng(0).integers(256, size=(120, 32, 32, 3), dtype=np.uint8)
    y = np.arange(120) % 3
    np.savez("pets.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    with preserve_process_state():
        command_output(embed.main, *KILLED, "--out", "whole")
    process = start_python("-m", "fcnet.embed", *KILLED, "--out", "features", cwd=working_folder)
    journal = unfinished_folder(working_folder / "features") / "journal"
    assert wait_until(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 4, process)
    process.kill()
    process.communicate()
    assert not Path("features").exists()
    code, _, error = run_command(embed.main, *KILLED, "--out", "features")
    assert code == 2
    assert re.fullmatch(
        r"--out: \.features\.unfinished holds the features of \d+ images from an interrupted command; "
        r"use --resume to continue it, or remove that folder to start anew\n",
        error,
    )
    with preserve_process_state():
        out = command_output(embed.main, *KILLED, "--out", "features", "--resume")
    assert re.search(r"images/s, \d+ images in an earlier run\)\n$", out)
    assert read_tree("features") == read_tree("whole")
    assert not [name for name in read_tree() if name.startswith(".features")]


def test_resume_starts_from_nothing_and_leaves_what_is_finished(images: Path) -> None:
    arguments = ("pets", "--backbone", "net.pt2", "--out", "features", "--resume")
    command_output(embed.main, *arguments)
    before = read_tree("features")
    assert command_output(embed.main, *arguments) == "features is finished: nothing to resume\n"
    assert read_tree("features") == before
    code, _, error = run_command(embed.main, "other", *arguments[1:])
    assert (code, error) == (2, "--resume: the features in features were made with source pets, got other\n")


def test_one_process_at_a_time_writes_a_folder(images: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom fcnet.runtime.locks import exclusive_lock\n"
        "with exclusive_lock(Path('features')):\n    print('locked', flush=True)\n    time.sleep(600)\n"
    )
    process = start_python("-c", script, cwd=images)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        code, _, error = run_command(embed.main, "pets", "--backbone", "net.pt2", "--out", "features")
        assert code == 2
        assert re.fullmatch(r"--out: features is being written: process \d+ on \S+ holds the lock\n", error)
    finally:
        process.kill()
        process.communicate()


NETWORK = "torchvision:NAME or a file that ends in .pt2 or .onnx"
MISTAKES = {
    "": "IMAGES is missing: ",
    "pets": f"--backbone is missing: {NETWORK}",
    "pets --backbone net.pt2": "--out is missing: the folder for the features",
    "pets --backbone resnet18 --out f": f"--backbone must be {NETWORK}, got resnet18; write torchvision:resnet18",
    "pets --backbone timm:resnet18 --out f": (
        f"--backbone must be {NETWORK}, got timm:resnet18; write torchvision:resnet18"
    ),
    "pets --backbone w.pth --out f": (
        f"--backbone must be {NETWORK}, got w.pth; weights alone need --backbone torchvision:NAME --weights w.pth"
    ),
    "pets --backbone net.h5 --out f": f"--backbone must be {NETWORK}, got net.h5\n",
    "pets --backbone other.pt2 --out f": "other.pt2: no such file\n",
    "pets --backbone net.pt2 --weights w.pth --out f": (
        "--weights must be left out for net.pt2, which has its weights in it\n"
    ),
    "pets --backbone torchvision:resnet18 --mean 0 --std 1 --out f": "--mean and --std must be left out for a model",
    "pets --backbone net.pt2 --mean 0 --out f": "--mean and --std must be given together\n",
    "pets --backbone net.pt2 --mean a --std 1 --out f": "--mean must be numbers with commas between them, got a\n",
    "pets --backbone net.pt2 --mean 0 --std 0 --out f": "--std must be greater than 0, got 0\n",
    "pets --backbone net.pt2 --mean nan --std 1 --out f": "--mean must be finite, got nan\n",
    "pets --backbone net.pt2 --size 7 --out f": "--size must be left out for net.pt2, which takes images of 8×6",
    "pets --backbone net.pt2 --batch-size 0 --out f": "--batch-size must be at least 1, got 0\n",
    "pets --backbone net.pt2 --out .": "--out must be a folder of its own, got .\n",
    "pets --backbone net.pt2 --out pets": "--out: pets already exists and is not empty\n",
    "pets --backbone net.pt2 --out net.pt2": "--out must be a folder, got the file net.pt2\n",
    "cats --backbone net.pt2 --out f": "cats: no such file or folder\n",
    "pets --backbone net.pt2 --out f --output g": "unknown flag --output g; write --out g\n",
}


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(images: Path, command: str) -> None:
    before = read_tree()
    code, out, error = run_command(embed.main, *command.split())
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(MISTAKES[command])
    assert read_tree() == before


def test_the_number_of_threads_of_the_interrupted_command_is_kept(images: Path) -> None:
    threads = torch.get_num_threads()
    try:
        command_output(embed.main, "pets", "--backbone", "net.pt2", "--out", "one")
        made_with = read_json(Path("one/metadata.json"))["threads"]
        assert embed._choose_threads({"threads": made_with + 1}) == made_with + 1
        assert embed._choose_threads({"threads": -1}) == embed._choose_threads({}) == made_with
    finally:
        torch.set_num_threads(threads)

"""A file from a stranger can do no more than be refused: with one line, in bounded time and memory."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import time
import traceback
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from fcnet.runtime.files import ChecksummedFolder, sha256
from tests.faults.rounds import repeated
from tests.helpers import image_bytes, write_noise_images
from tests.processes import call_command
from tests.unit.data.decoding.hostile_images import HOSTILE_IMAGES
from tests.unit.data.sources.hostile_archives import HOSTILE_ARCHIVES, HOSTILE_ZIPS
from tests.unit.data.sources.image_trees import zip_link

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import WarmServer

MAX_BYTES, MAX_SECONDS = 1 << 30, 10.0
CASES_A_PROCESS = 30
CONFIG = """\
seed = 2
[data]
source = "images"
path = "pets"
[model]
hidden = [8]
[train]
epochs = 2
batch_size = 16
save_seconds = 0.0
diagnostics_every = 1
"""
EXTREMES = [0, 1, 127, 128, 255, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
JSON_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**31 - 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "a\nb", "\0", "\ud800", "\x1b[2J", "../../x", "<script>alert(1)</script>", "n" * 100_000),
    *([], {}, [[]], [None], {"": None}, [0] * 100_000, [1] * 3, [2**31 - 1] * 3, [0.5, "x"], [[0.5]] * 1000),
]


class Outcome(NamedTuple):
    """How a command ended on a file: seconds of processors, and the peak of bytes above the start of its process."""

    name: str
    code: int
    err: str
    seconds: float
    num_bytes: int


# --- mutations --------------------------------------------------------------------------------------------------


def mutate_bytes(draws: random.Random, data: bytes) -> bytes:
    """Changes a file in up to four places."""
    content = bytearray(data)
    for _ in range(draws.randint(1, 4)):
        place = (
            draws.randrange(len(content) + 1) if draws.random() < 0.5 else draws.randrange(min(len(content), 64) + 1)
        )
        width = draws.choice([1, 2, 4, 8])
        match draws.randrange(6):
            case 0:
                content[place : place + 1] = bytes([draws.randrange(256)])
            case 1:
                extreme = draws.choice(EXTREMES) % 256**width
                content[place : place + width] = extreme.to_bytes(width, draws.choice(["little", "big"]))
            case 2:
                del content[place : place + draws.choice([1, 4, 100])]
            case 3:
                content[place:place] = draws.randbytes(draws.choice([1, 4, 100]))
            case 4:
                other = draws.randrange(len(content) + 1)
                content[place:place] = content[other : other + draws.choice([4, 100, 1000])]
            case 5:
                del content[max(place, 1) :]
    return bytes(content)


def mutate_tree(draws: random.Random, tree: Any) -> Any:
    """Changes up to three values, keys or items of a JSON value in place; returns it."""
    for _ in range(draws.randint(1, 3)):
        inner: Any = tree
        while isinstance(inner, dict | list) and inner:
            key: Any = draws.choice(list(inner)) if isinstance(inner, dict) else draws.randrange(len(inner))
            if isinstance(inner[key], dict | list) and inner[key] and draws.random() < 0.8:
                inner = inner[key]
                continue
            match draws.randrange(5):
                case 0:
                    del inner[key]
                case 1 if isinstance(inner, list):
                    inner.append(copy.deepcopy(inner[key]))
                case 1 if isinstance(inner, dict):
                    inner[f"{key}x"] = inner.pop(key)
                case 2 if isinstance(inner[key], int | float):
                    inner[key] = inner[key] * draws.choice([-1, 10, 1000, 10**6, 10**12])
                case _:
                    inner[key] = copy.deepcopy(draws.choice(JSON_VALUES))
            break
    return tree


def nest(draws: random.Random, text: str) -> str:
    """Replaces a value of a JSON text by one that is nested deeply, now and then."""
    if draws.random() < 0.9:
        return text
    depth = draws.choice([500, 5000, 100_000])
    return text.replace("null", "[" * depth + "]" * depth, 1).replace("true", '{"a":' * depth + "1" + "}" * depth, 1)


def write_sealed(file: Path, text: str) -> None:
    """Writes a JSON object with a valid checksum as its last entry, whatever else the text holds."""
    start = text[: text.rindex('"checksum"')].encode()
    checksum = hashlib.sha256(start + b'"checksum": "%s"\n}\n' % (b"0" * 64)).hexdigest().encode()
    file.write_bytes(start + b'"checksum": "%s"\n}\n' % checksum)


def reseal(draws: random.Random, stem: Path, *, tensors: bool) -> None:
    """Changes the tensors or the metadata of a pair of files, and makes their checksums fit."""
    weights, file = stem.with_name(f"{stem.name}.safetensors"), stem.with_name(f"{stem.name}.json")
    content = json.loads(file.read_bytes())
    if tensors:
        data = weights.read_bytes()
        head = int.from_bytes(data[:8], "little")
        if draws.random() < 0.5:
            weights.write_bytes(mutate_bytes(draws, data))
        else:
            header = json.dumps(mutate_tree(draws, json.loads(data[8 : 8 + head]))).encode()
            weights.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + head :])
        content["tensors"]["sha256"] = sha256(weights)
    else:
        described = content.pop("tensors")
        content = mutate_tree(draws, content) | {"tensors": described}
    content.pop("checksum", None)
    write_sealed(file, nest(draws, json.dumps(content | {"checksum": ""})))


def reseal_run(draws: random.Random, run: Path, name: str) -> None:
    """Changes a file of a run whose checksum is in ``checksums.json``, and makes that fit."""
    file = run / name
    lines = file.read_text(encoding="utf-8").splitlines() if name.endswith("l") else [file.read_text(encoding="utf-8")]
    if name.endswith("toml") or draws.random() < 0.2:
        file.write_bytes(mutate_bytes(draws, file.read_bytes()))
    else:
        number = draws.randrange(len(lines))
        lines[number] = nest(draws, json.dumps(mutate_tree(draws, json.loads(lines[number]))))
        file.write_text("\n".join([*lines, ""]), encoding="utf-8")
    files = ChecksummedFolder(run)
    files.adopt(*files.checksums())


# --- kinds of files ---------------------------------------------------------------------------------------------


def make_image(draws: random.Random, number: int, folder: Path) -> list[str]:
    form, mode = draws.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]), draws.choice(["L", "RGB"])
    options: dict[str, Any] = {}
    if form == "TIFF":
        options["compression"] = draws.choice([None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg"])
    if form == "JPEG":
        options["progressive"] = draws.random() < 0.5
    whole = image_bytes(Image.effect_noise((5, 4), 90).convert(mode), form, **options)
    (folder / "x.png").write_bytes(mutate_bytes(draws, whole))
    return ["predict", "run", "x.png"]


def make_hostile_image(draws: random.Random, number: int, folder: Path) -> list[str]:
    images = sorted(HOSTILE_IMAGES.values(), key=lambda image: image.slow)
    if number >= len(images):  # each once
        return make_image(draws, number, folder)
    (folder / "x.png").write_bytes(images[number].make())
    return ["predict", "run", "x.png"]


def make_archive(draws: random.Random, number: int, folder: Path) -> list[str]:
    file = io.BytesIO()
    mode: Any = draws.choice(["w", "w:gz", "w:xz", "w:bz2"])
    with tarfile.open(fileobj=file, mode=mode) as archive:
        archive.add("pets/test", "test")
    (folder / "a.tar").write_bytes(mutate_bytes(draws, file.getvalue()))
    return read_command(draws, "a.tar")


def make_zip(draws: random.Random, number: int, folder: Path) -> list[str]:
    file = io.BytesIO()
    methods = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
    with zipfile.ZipFile(file, "w", draws.choice(methods)) as archive:
        for path in sorted(Path("pets/test").rglob("*")):
            archive.write(path, path.relative_to("pets"))
        archive.writestr(zip_link("test/cow"), "cat")
    (folder / "a.zip").write_bytes(mutate_bytes(draws, file.getvalue()))
    return read_command(draws, "a.zip")


def make_hostile_archive(draws: random.Random, number: int, folder: Path) -> list[str]:
    writers = [write for write, _ in HOSTILE_ARCHIVES.values()]
    if number >= len(writers):
        return make_archive(draws, number, folder)
    writers[number](folder / "a.tar")
    return read_command(draws, "a.tar")


def make_hostile_zip(draws: random.Random, number: int, folder: Path) -> list[str]:
    writers = [write for write, _ in HOSTILE_ZIPS.values()]
    if number >= len(writers):
        return make_zip(draws, number, folder)
    writers[number](folder / "a.zip")
    return read_command(draws, "a.zip")


def read_command(draws: random.Random, archive: str) -> list[str]:
    return draws.choice([["predict", "run", archive], ["evaluate", "run", "--data", archive]])


def make_npz(draws: random.Random, number: int, folder: Path) -> list[str]:
    pixels, labels = np.zeros((6, 4, 5), np.uint8), np.arange(6) % 3
    arrays: dict[str, Any] = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    save = draws.choice([np.savez, np.savez_compressed])
    save(folder / "x.npz", **arrays)
    if draws.random() < 0.5:  # the headers of the arrays, inside a whole archive
        with zipfile.ZipFile(folder / "x.npz") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = draws.choice(list(members))
        members[name] = mutate_bytes(draws, members[name])
        with zipfile.ZipFile(
            folder / "x.npz", "w", draws.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        ) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        (folder / "x.npz").write_bytes(mutate_bytes(draws, (folder / "x.npz").read_bytes()))
    return ["evaluate", "run", "--data", "x.npz"]


def make_toml(draws: random.Random, number: int, folder: Path) -> list[str]:
    (folder / "x.toml").write_bytes(mutate_bytes(draws, CONFIG.replace("pets", "../pets").encode()))
    bounds = ["--set", "train.epochs=1", "--set", "model.hidden=[8]", "--set", "train.batch_size=16"]
    return ["train", "--config", "x.toml", "--out", "new", *bounds]


def of_pair(name: str, command: str, *, tensors: bool) -> Callable[[random.Random, int, Path], list[str]]:
    def make(draws: random.Random, number: int, folder: Path) -> list[str]:
        reseal(draws, folder / "run" / name, tensors=tensors)
        return {"predict": ["predict", "run", "../pets/test"], "report": ["report.__main__", "run"]}[command]

    return make


def of_run(name: str, command: str) -> Callable[[random.Random, int, Path], list[str]]:
    def make(draws: random.Random, number: int, folder: Path) -> list[str]:
        reseal_run(draws, folder / "run", name)
        return [command, "run"]

    return make


def make_checkpoint(draws: random.Random, number: int, folder: Path) -> list[str]:
    stems = {file.with_suffix("") for file in (folder / "stopped/checkpoints").glob("*.json")}
    for stem in sorted(stems):
        reseal(draws, stem, tensors=draws.random() < 0.5)
    return ["train", "--resume", "--out", "stopped"]


KINDS: list[Callable[[random.Random, int, Path], list[str]]] = [
    *(make_image, make_hostile_image, make_archive, make_hostile_archive, make_zip, make_hostile_zip),
    *(make_npz, make_toml, make_checkpoint),
    of_pair("model", "predict", tensors=False),
    of_pair("model", "predict", tensors=True),
    of_pair("predictions", "report", tensors=False),
    of_pair("predictions", "report", tensors=True),
    *(
        of_run(name, "report.__main__")
        for name in ("metrics.jsonl", "diagnostics.jsonl", "summary.json", "config.toml")
    ),
    of_run("config.toml", "evaluate"),
    make_image,
]


# --- their outcome ----------------------------------------------------------------------------------------------


def memory_bytes(field: str) -> int:
    """Returns a figure of this process from the system: VmRSS or VmHWM."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[field].split()[0]) * 1024


def run_cases(folders: list[str], results: str) -> None:
    """Runs the command of each folder in it, one after another, in this process; writes a line of JSON for each."""
    baseline = memory_bytes("VmRSS")
    with Path(results).open("w") as file:
        for folder in folders:
            os.chdir(folder)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            printed, start = os.fstat(2).st_size, sum(os.times()[:4])
            signal.alarm(60)
            try:
                call_command(*json.loads(Path("command.json").read_text()))
                code = 0
            except SystemExit as ending:
                code = ending.code if isinstance(ending.code, int) else 1
            except BaseException:  # noqa: BLE001 - printed, as Python itself does
                traceback.print_exc()
                code = 1
            signal.alarm(0)
            seconds = sum(os.times()[:4]) - start  # of processors, so that a busy machine does not matter
            sys.stderr.flush()
            err = Path("/proc/self/fd/2").read_bytes()[printed:].decode(errors="replace")
            outcome = Outcome(folder, code, err, seconds, memory_bytes("VmHWM") - baseline)
            file.write(json.dumps(outcome) + "\n")
            file.flush()


def describe_failure(outcome: Outcome) -> str | None:
    """Returns what a command did that it must not, or None."""
    lines = outcome.err.splitlines()
    # An image of an archive, or an error of a configuration, is a line each.
    several = any(kind in outcome.name for kind in ("a.tar", "a.zip", "toml")) or all(".toml" in line for line in lines)
    if outcome.code not in (0, 2) or "Traceback" in outcome.err:
        return f"exit code {outcome.code}: {outcome.err[-2000:]}"
    if outcome.code == 2 and (len(lines) == 0 or (len(lines) > 1 and not several)):
        return f"{len(lines)} lines: {outcome.err[:1000]}"
    if outcome.seconds > MAX_SECONDS:
        return f"{outcome.seconds:.1f} s: {outcome.err[:300]}"
    if outcome.num_bytes > MAX_BYTES:
        return f"{outcome.num_bytes >> 20} MiB: {outcome.err[:300]}"
    return None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, warm: WarmServer) -> Path:
    """A folder of images, a finished run and one that was stopped."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_noise_images("pets", ("ant", "bee", "cat"), {"train": 12, "test": 6})
        Path("pets.toml").write_text(CONFIG)
        options: dict[str, Any] = {"folder": folder / "o", "FCNET_CACHE": str(folder / "cache")}
        ended = warm.command("train", "--config", "pets.toml", "--out", "base/run", **options).wait()
        assert ended.code == 0, ended.err
        longer = ("--set", "train.epochs=100", "--set", "train.diagnostics_every=0")
        process = warm.command("train", "--config", "pets.toml", "--out", "base/stopped", *longer, **options)
        while not list(Path("base/stopped/checkpoints").glob("*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait().code == 128 + signal.SIGINT
        (folder / "base/run/report.html").unlink()
    return folder


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the peak memory of Linux")
@repeated(38, 5000)
def test_a_hostile_file_is_refused_with_a_line_in_bounded_time_and_memory(
    count: int,
    base: Path,
    warm: WarmServer,
    tmp_path: Path,
    figures: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(base)
    failures: list[str] = []
    outcomes: list[Outcome] = []
    results = tmp_path / "results"
    options: dict[str, Any] = {"folder": tmp_path / "o", "FCNET_CACHE": str(base / "cache"), "OMP_NUM_THREADS": "1"}
    for first in range(0, count, CASES_A_PROCESS):
        folders = []
        for number in range(first, min(first + CASES_A_PROCESS, count)):
            make = KINDS[number % len(KINDS)]
            folder = base / f"case-{number}"
            shutil.copytree("base", folder)
            arguments = make(random.Random(number), number // len(KINDS), folder)
            named = base / f"case-{number}-{'-'.join(Path(word).name for word in arguments if word[:2] != '--')[:60]}"
            folder.rename(named)
            (named / "command.json").write_text(json.dumps(arguments))
            folders.append(str(named))
        pending = folders
        while pending:
            ended = warm.start(run_cases, pending, str(results), **options).wait(60.0 * CASES_A_PROCESS)
            done = [Outcome(*json.loads(line)) for line in results.read_text().splitlines()]
            failures += [f"{outcome.name}: {failure}" for outcome in done if (failure := describe_failure(outcome))]
            if len(done) < len(pending):
                failures.append(f"{pending[len(done)]} ended its process: {ended.code}, {ended.err[-500:]}")
            outcomes += done
            pending = pending[len(done) + 1 :]
        for finished in folders:  # those that failed stay
            if not any(failure.startswith(finished) for failure in failures):
                shutil.rmtree(finished)
    figures(
        "hostile files",
        files=count,
        refused=sum(outcome.code == 2 for outcome in outcomes),
        still_right=sum(outcome.code == 0 for outcome in outcomes),
        seconds_at_most=f"{max(outcome.seconds for outcome in outcomes):.1f}",
        MiB_at_most=max(outcome.num_bytes for outcome in outcomes) >> 20,
    )
    assert not failures, "\n".join(failures)

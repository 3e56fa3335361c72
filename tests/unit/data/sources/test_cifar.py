"""CIFAR-10 and CIFAR-100: downloaded once whatever happens on the way, verified, and read as they are."""

from __future__ import annotations

import functools
import hashlib
import http.server
import multiprocessing
import pickle
import re
import tarfile
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from fcnet.data.sources import cifar, download
from fcnet.data.sources.source import cifar10, cifar100
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fcnet.data.sources.source import Source

SOURCES = {"cifar10": cifar10, "cifar100": cifar100}
Way = Literal["whole", "cut", "ignores ranges", "ignores ranges, cut", "wrong range", "changed", "absent"]
GARBAGE = b"<html>the network wants a password</html>"


def tiny(name: str) -> dict[str, bytes]:
    """The files of a set's Python version, with ten images in each batch."""
    rng = np.random.default_rng(0)

    def batch(labels: dict[str, list[int]]) -> dict[str, Any]:
        return {"data": rng.integers(0, 256, (10, 3072), dtype=np.uint8), **labels}

    if name == "cifar10":
        classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
        files: dict[str, Any] = {"batches.meta": {"label_names": classes, "num_vis": 3072}}
        for file in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
            files[file] = batch({"labels": rng.permutation(10).tolist()})
    else:
        fine = [f"fine {label:02}" for label in range(100)]
        files = {"meta": {"fine_label_names": fine, "coarse_label_names": [f"coarse {n}" for n in range(20)]}}
        for file in ("train", "test"):
            labels = rng.permutation(100)[:10].tolist()
            files[file] = batch({"fine_labels": labels, "coarse_labels": [label // 5 for label in labels]})
    return {file: pickle.dumps(content, protocol=2) for file, content in files.items()}


@dataclass
class Served:
    """A set whose tiny archive torchvision takes for the real one, and the server it is on.

    Attributes:
        name: which set.
        files: the unpacked files.
        archive: the archive's bytes.
        title: the archive's file name.
        ways: how the server deals with one request after another; the last way is that of all further ones.
        asked: the first byte that each request wanted.
    """

    name: str
    files: dict[str, bytes]
    archive: bytes
    title: str
    ways: list[Way] = field(default_factory=lambda: ["whole"])
    asked: list[int] = field(default_factory=list)

    def source(self, path: Path) -> Source:
        return SOURCES[self.name](path)


def handler(served: Served) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
            pass

        def do_GET(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start, end = int(wanted[1]) if wanted else 0, len(served.archive)
            way = served.ways.pop(0) if len(served.ways) > 1 else served.ways[0]
            served.asked.append(start)
            if way == "absent" or (wanted and start >= end and "ignores" not in way):
                self.send_error(404 if way == "absent" else 416)
                return
            body = GARBAGE if way == "changed" else served.archive
            if wanted and "ignores" not in way and way != "changed":
                said = start + 1 if way == "wrong range" else start
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {said}-{end - 1}/{end}")
                body = body[start:]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if "cut" in way else body)

    return Handler


@pytest.fixture(params=["cifar10", "cifar100"])
def served(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    from torchvision import datasets

    dataset = getattr(datasets, request.param.upper())
    files = tiny(request.param)
    folder = tmp_path / "unpacked" / dataset.base_folder
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / dataset.filename, "w:gz") as packed:
        packed.add(folder, dataset.base_folder)
    archive = (tmp_path / "packed" / dataset.filename).read_bytes()
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(dataset, "tgz_md5", hashlib.md5(archive).hexdigest())
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, part, [[name, sums[name]] for name, _ in getattr(dataset, part)])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": sums[dataset.meta["filename"]]})
    monkeypatch.setattr(download, "RETRY_SECONDS", 0.0)
    served = Served(request.param, files, archive, dataset.filename)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(served)) as server:
        monkeypatch.setattr(dataset, "url", f"http://127.0.0.1:{server.server_port}/{dataset.filename}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def check(served: Served, path: Path) -> None:
    """That a folder gives, pixel for pixel, what was put into the archive."""
    contents = served.source(path).snapshot().read()
    examples = list(contents.chunks)
    names = {
        "cifar10": {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
        "cifar100": {"train": ["train"], "test": ["test"]},
    }[served.name]
    meta = pickle.loads(served.files["batches.meta" if served.name == "cifar10" else "meta"])  # noqa: S301 - ours
    key = "label" if served.name == "cifar10" else "fine_label"
    assert contents.classes == tuple(meta[f"{key}_names"])
    for split, files in names.items():
        batches = [pickle.loads(served.files[file]) for file in files]  # noqa: S301 - ours
        mine = [some for some in examples if some.split == split]
        pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        np.testing.assert_array_equal(np.concatenate([some.pixels for some in mine]), pixels)
        labels = [label for batch in batches for label in batch[f"{key}s"]]
        assert np.concatenate([some.labels for some in mine]).tolist() == labels


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- read -------------------------------------------------------------------------------------------------------


def test_a_set_is_downloaded_once_in_silence_and_read(
    served: Served, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = served.source(tmp_path / "data").snapshot().fingerprint
    check(served, tmp_path / "data")
    check(served, tmp_path / "data")
    assert served.asked == [0]
    assert served.source(tmp_path / "data").snapshot().fingerprint == before
    assert before["kind"] == served.name
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["unpacked", "packed"])
def test_a_set_that_is_there_needs_no_network(served: Served, tmp_path: Path, form: str) -> None:
    served.ways = ["absent"]
    check(served, tmp_path / form)
    assert served.asked == []


def test_unpacked_files_are_read_where_nothing_may_be_written(served: Served, tmp_path: Path) -> None:
    before = names(tmp_path / "unpacked")
    (tmp_path / "unpacked").chmod(0o555)
    check(served, tmp_path / "unpacked")
    (tmp_path / "unpacked").chmod(0o755)
    assert names(tmp_path / "unpacked") == before


@pytest.mark.parametrize("missing", ["first", "last"])
def test_files_that_are_missing_or_changed_are_unpacked_again(served: Served, tmp_path: Path, missing: str) -> None:
    check(served, tmp_path / "packed")
    folder = next(path for path in (tmp_path / "packed").iterdir() if path.is_dir())
    files = [folder / name for name in served.files]
    files[0 if missing == "first" else -1].unlink()
    files[1].write_bytes(b"changed")
    check(served, tmp_path / "packed")
    assert served.asked == []


# --- interrupted ------------------------------------------------------------------------------------------------


def test_an_interrupted_download_goes_on_where_it_was(served: Served, tmp_path: Path) -> None:
    half = len(served.archive) // 2
    (tmp_path / "data").mkdir()
    part = tmp_path / "data" / f"{served.title}.part"
    part.write_bytes(served.archive[:half])
    check(served, tmp_path / "data")
    assert served.asked == [half]
    assert not part.exists()
    assert (tmp_path / "data" / served.title).read_bytes() == served.archive


def test_a_connection_may_drop_as_often_as_each_brings_something_new(served: Served, tmp_path: Path) -> None:
    served.ways = ["cut", "cut", "cut", "cut", "cut", "cut", "whole"]
    check(served, tmp_path / "data")
    expected, have, size = [0], 0, len(served.archive)
    for _ in range(6):
        have += (size - have) // 2
        expected.append(have)
    assert served.asked == expected


@pytest.mark.parametrize(
    ("ways", "requests"),
    [
        (["ignores ranges, cut", "ignores ranges"], 2),
        (["cut", "wrong range", "whole"], 3),
        (["cut", "absent", "absent", "whole"], 4),
    ],
    ids=str,
)
def test_a_server_that_does_not_go_on_is_asked_for_everything(
    served: Served, tmp_path: Path, ways: list[Way], requests: int
) -> None:
    served.ways = list(ways)
    check(served, tmp_path / "data")
    assert len(served.asked) == requests


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_part_that_is_whole_or_too_long_is_no_trouble(served: Served, tmp_path: Path, extra: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{served.title}.part").write_bytes(served.archive + extra)
    check(served, tmp_path / "data")
    assert served.asked == ([len(served.archive) + 4, 0] if extra else [])


def test_a_part_of_something_else_is_thrown_away_and_the_next_call_begins_anew(served: Served, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{served.title}.part").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"^\S+ from http://\S+ must have the MD5 sum \w+, got another: it was thrown "):
        served.source(tmp_path / "data").snapshot().read()
    check(served, tmp_path / "data")
    assert served.asked == [14, 0]


# --- refused ----------------------------------------------------------------------------------------------------


def advice(served: Served, path: Path) -> str:
    title = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[served.name]
    return (
        f"data.path must be a folder with {title}, or to download it to, got {path}: connect to the network, "
        f"or put a whole {served.title} there; what went wrong: "
    )


@pytest.mark.parametrize(
    ("ways", "reason", "requests"),
    [
        (["absent"], r"http://\S+ answered 404 Not Found", 3),
        (["ignores ranges, cut"], r"http://\S+ broke off after \d+ of \d+ bytes", 4),
        (["cut", "absent"], r"http://\S+ answered 404 Not Found", 4),
    ],
    ids=str,
)
def test_a_server_that_does_not_send_it_is_named_and_what_came_is_kept(
    served: Served, tmp_path: Path, ways: list[Way], reason: str, requests: int
) -> None:
    served.ways = list(ways)
    with pytest.raises(UserError) as error:
        served.source(tmp_path / "data").snapshot().read()
    assert re.fullmatch(re.escape(advice(served, tmp_path / "data")) + reason, str(error.value)), str(error.value)
    assert len(served.asked) == requests
    assert (tmp_path / "data" / f"{served.title}.part").exists() == (ways != ["absent"])
    assert not (tmp_path / "data" / served.title).exists()


def test_without_a_network_it_is_said_what_to_do(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    monkeypatch.setattr(getattr(datasets, served.name.upper()), "url", "http://127.0.0.1:9/x.tar.gz")
    folder = next((tmp_path / "unpacked").iterdir())
    (folder / list(served.files)[1]).write_bytes(b"changed")
    for path in (tmp_path / "nowhere", tmp_path / "unpacked"):
        with pytest.raises(UserError) as error:
            served.source(path).snapshot().read()
        reason = "http://127.0.0.1:9/x.tar.gz cannot be reached: Connection refused"
        assert str(error.value) == advice(served, path) + reason


def test_something_else_in_its_place_is_thrown_away_and_named(served: Served, tmp_path: Path) -> None:
    served.ways = ["changed"]
    with pytest.raises(UserError, match=r"^cifar-\d+-python\.tar\.gz from http://\S+ must have the MD5 sum "):
        served.source(tmp_path / "data").snapshot().read()
    assert names(tmp_path / "data") == {f".{served.title}.lock"}


def test_an_archive_with_another_sum_is_not_believed_but_replaced(served: Served, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / served.title).write_bytes(served.archive[:-1])
    check(served, tmp_path / "data")
    assert served.asked == [0]


def test_a_path_that_is_a_file_is_refused(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        served.source(tmp_path / "file").snapshot().read()
    assert str(error.value) == advice(served, tmp_path / "file") + "File exists"
    assert served.asked == []


# --- several processes ------------------------------------------------------------------------------------------


def read(source: Callable[[], Source], failures: Any) -> None:
    try:
        list(source().snapshot().read().chunks)
    except BaseException as error:
        failures.put(repr(error))
        raise


def test_processes_that_want_a_set_at_once_download_and_unpack_it_once(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    done = context.SimpleQueue()

    def noted(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        done.put(name)
        return work(*arguments)

    monkeypatch.setattr(cifar, "download", functools.partial(noted, "download", download.download))
    monkeypatch.setattr(tarfile, "open", functools.partial(noted, "open", tarfile.open))
    failures = context.SimpleQueue()
    served.ways = ["cut", "whole"]
    processes = [
        context.Process(target=read, args=(lambda: served.source(tmp_path / "data"), failures)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert failures.empty(), failures.get()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [done.get(), done.get()] == ["download", "open"]
    assert done.empty()
    check(served, tmp_path / "data")

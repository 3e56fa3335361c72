"""A server of small CIFAR archives, which the tests of downloads and of the CIFAR sources share."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import pickle
import re
import tarfile
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from fcnet.data.sources import cifar10, cifar100, download

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fcnet.data.sources import Source

SOURCES = {"cifar10": cifar10, "cifar100": cifar100}
Behaviour = Literal[
    "whole",
    "cut",
    "ignores ranges",
    "ignores ranges, cut",
    "wrong range",
    "changed",
    "absent",
    "broken",
    "stalls",
    "endless",
    "circle",
]
TIMEOUT_SECONDS = 0.5
LOGIN_PAGE = b"<html>the network wants a password</html>"


def small_files(name: str) -> dict[str, bytes]:
    """Returns the files of a data set's Python version, with ten images in each."""
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
class CifarServer:
    """A server of a small archive that torchvision accepts as the real one.

    Attributes:
        name: the data set.
        files: the unpacked files.
        archive: the archive's bytes.
        file_name: the archive's file name.
        behaviours: the server's behaviour for each request; the last one repeats.
        offsets: the first byte that each request asked for.
    """

    name: str
    files: dict[str, bytes]
    archive: bytes
    file_name: str
    behaviours: list[Behaviour] = field(default_factory=lambda: ["whole"])
    offsets: list[int] = field(default_factory=list)

    def source(self, path: Path) -> Source:
        return SOURCES[self.name](path)

    def check(self, path: Path) -> None:
        """Checks that a folder gives the pixels and labels of the archive."""
        contents = self.source(path).snapshot().read()
        chunks = list(contents.chunks)
        names = {
            "cifar10": {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
            "cifar100": {"train": ["train"], "test": ["test"]},
        }[self.name]
        meta = pickle.loads(self.files["batches.meta" if self.name == "cifar10" else "meta"])  # noqa: S301 - ours
        key = "label" if self.name == "cifar10" else "fine_label"
        assert contents.classes == tuple(meta[f"{key}_names"])
        for split, files in names.items():
            batches = [pickle.loads(self.files[file]) for file in files]  # noqa: S301 - ours
            of_split = [chunk for chunk in chunks if chunk.split == split]
            pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
            np.testing.assert_array_equal(np.concatenate([chunk.pixels for chunk in of_split]), pixels)
            labels = [label for batch in batches for label in batch[f"{key}s"]]
            assert np.concatenate([chunk.labels for chunk in of_split]).tolist() == labels

    def error_prefix(self, path: Path) -> str:
        """Returns the start of the error message for a set that could not be downloaded to ``path``."""
        title = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}[self.name]
        return f"data.path must be a folder with {title}, or to download it to, got {path}: "

    @property
    def error_suffix(self) -> str:
        """The end of that message."""
        return f"; connect to the network, or put a whole {self.file_name} there"


def make_handler(server: CifarServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
            pass

        def do_GET(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start, end = int(wanted[1]) if wanted else 0, len(server.archive)
            behaviour = server.behaviours.pop(0) if len(server.behaviours) > 1 else server.behaviours[0]
            server.offsets.append(start)
            errors = {"absent": 404, "broken": 500}
            if behaviour in errors or (wanted and start >= end and "ignores" not in behaviour):
                self.send_error(errors.get(behaviour, 416))
                return
            if behaviour in ("circle", "endless"):
                self.send_response(302 if behaviour == "circle" else 200)
                self.send_header("Location", self.path)
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    while behaviour == "endless":
                        self.wfile.write(bytes(1 << 16))
                return
            body = LOGIN_PAGE if behaviour == "changed" else server.archive
            if wanted and "ignores" not in behaviour and behaviour != "changed":
                first = start + 1 if behaviour == "wrong range" else start
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{end - 1}/{end}")
                body = body[start:]
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if "cut" in behaviour or behaviour == "stalls" else body)
            if behaviour == "stalls":
                self.wfile.flush()
                time.sleep(4 * TIMEOUT_SECONDS)

    return Handler


@pytest.fixture(params=["cifar10", "cifar100"])
def server(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CifarServer]:
    """Serves a small archive instead of the real one; ``unpacked`` and ``packed`` below tmp_path hold its files."""
    from torchvision import datasets

    dataset = getattr(datasets, request.param.upper())
    files = small_files(request.param)
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
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", TIMEOUT_SECONDS)
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 22)
    cifar_server = CifarServer(request.param, files, archive, dataset.filename)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), make_handler(cifar_server)) as http_server:
        monkeypatch.setattr(dataset, "url", f"http://127.0.0.1:{http_server.server_port}/{dataset.filename}")
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield cifar_server
        http_server.shutdown()
        thread.join()

"""Tests of the CIFAR sources: download, verification and reading."""

from __future__ import annotations

import functools
import multiprocessing
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from fcnet.data import sources
from fcnet.data.sources import cifar, download
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fcnet.data.sources import Source
    from tests.unit.data.sources.conftest import CifarServer


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_set_is_downloaded_once_without_output(
    server: CifarServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = server.source(tmp_path / "data").snapshot().fingerprint
    server.check(tmp_path / "data")
    server.check(tmp_path / "data")
    assert server.offsets == [0]
    assert server.source(tmp_path / "data").snapshot().fingerprint == before
    assert before["kind"] == server.name
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("form", ["unpacked", "packed"])
def test_an_existing_set_needs_no_network(server: CifarServer, tmp_path: Path, form: str) -> None:
    server.behaviours = ["absent"]
    server.check(tmp_path / form)
    assert server.offsets == []


def test_unpacked_files_are_read_in_a_read_only_folder(server: CifarServer, tmp_path: Path) -> None:
    before = file_names(tmp_path / "unpacked")
    (tmp_path / "unpacked").chmod(0o555)
    server.check(tmp_path / "unpacked")
    (tmp_path / "unpacked").chmod(0o755)
    assert file_names(tmp_path / "unpacked") == before


@pytest.mark.parametrize("missing", ["first", "last"])
def test_missing_and_changed_files_are_unpacked_again(server: CifarServer, tmp_path: Path, missing: str) -> None:
    server.check(tmp_path / "packed")
    folder = next(path for path in (tmp_path / "packed").iterdir() if path.is_dir())
    files = [folder / name for name in server.files]
    files[0 if missing == "first" else -1].unlink()
    files[1].write_bytes(b"changed")
    server.check(tmp_path / "packed")
    assert server.offsets == []


def test_an_archive_with_another_checksum_is_replaced(server: CifarServer, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / server.file_name).write_bytes(server.archive[:-1])
    server.check(tmp_path / "data")
    assert server.offsets == [0]


def test_the_error_without_a_network_says_what_to_do(
    server: CifarServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    monkeypatch.setattr(getattr(datasets, server.name.upper()), "url", "http://127.0.0.1:9/x.tar.gz")
    folder = next((tmp_path / "unpacked").iterdir())
    (folder / list(server.files)[1]).write_bytes(b"changed")
    for path in (tmp_path / "nowhere", tmp_path / "unpacked"):
        with pytest.raises(UserError) as error:
            server.source(path).snapshot().read()
        reason = "http://127.0.0.1:9/x.tar.gz cannot be reached: Connection refused"
        assert str(error.value) == server.error_prefix(path) + reason + server.error_suffix


def test_a_path_of_a_file_is_an_error(server: CifarServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        server.source(tmp_path / "file").snapshot().read()
    prefix = server.error_prefix(tmp_path / "file").replace("got ", "got the file ").removesuffix(": ")
    assert str(error.value) == f"{prefix}; an archive of images needs data.source=images"
    assert server.offsets == []


def test_an_incomplete_copy_that_must_not_be_downloaded_is_named_without_a_setting(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError) as error:
        sources.cifar10(tmp_path, download=False).snapshot().read()
    assert str(error.value) == (
        f"{tmp_path} must hold a whole CIFAR-10: files are missing or damaged; put a whole cifar-10-python.tar.gz there"
    )


def read(source: Callable[[], Source], failures: Any) -> None:
    try:
        list(source().snapshot().read().chunks)
    except BaseException as error:
        failures.put(repr(error))
        raise


def test_several_processes_download_and_unpack_a_set_once(
    server: CifarServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    done = context.SimpleQueue()

    def noted(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        done.put(name)
        return work(*arguments)

    monkeypatch.setattr(cifar, "download", functools.partial(noted, "download", download.download))
    monkeypatch.setattr(tarfile, "open", functools.partial(noted, "open", tarfile.open))
    failures = context.SimpleQueue()
    server.behaviours = ["cut", "whole"]
    processes = [
        context.Process(target=read, args=(lambda: server.source(tmp_path / "data"), failures)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert failures.empty(), failures.get()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [done.get(), done.get()] == ["download", "open"]
    assert done.empty()
    server.check(tmp_path / "data")

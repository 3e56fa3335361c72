"""Tests of downloads: they resume, restart and verify."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.data.sources.conftest import Behaviour, CifarServer


def file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_interrupted_download_resumes_where_it_stopped(server: CifarServer, tmp_path: Path) -> None:
    half = len(server.archive) // 2
    (tmp_path / "data").mkdir()
    part = tmp_path / "data" / f"{server.file_name}.part"
    part.write_bytes(server.archive[:half])
    server.check(tmp_path / "data")
    assert server.offsets == [half]
    assert not part.exists()
    assert (tmp_path / "data" / server.file_name).read_bytes() == server.archive


def test_connections_may_break_any_number_of_times_while_each_receives_something_new(
    server: CifarServer, tmp_path: Path
) -> None:
    server.behaviours = ["cut", "cut", "cut", "cut", "cut", "cut", "whole"]
    server.check(tmp_path / "data")
    expected, have, size = [0], 0, len(server.archive)
    for _ in range(6):
        have += (size - have) // 2
        expected.append(have)
    assert server.offsets == expected


@pytest.mark.parametrize(
    ("behaviours", "requests"),
    [
        (["ignores ranges, cut", "ignores ranges"], 2),
        (["cut", "wrong range", "whole"], 3),
        (["cut", "absent", "absent", "whole"], 4),
    ],
    ids=str,
)
def test_the_download_restarts_if_the_server_does_not_resume_it(
    server: CifarServer, tmp_path: Path, behaviours: list[Behaviour], requests: int
) -> None:
    server.behaviours = list(behaviours)
    server.check(tmp_path / "data")
    assert len(server.offsets) == requests


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_partial_file_may_be_complete_or_too_long(server: CifarServer, tmp_path: Path, extra: bytes) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{server.file_name}.part").write_bytes(server.archive + extra)
    server.check(tmp_path / "data")
    assert server.offsets == ([len(server.archive) + 4, 0] if extra else [])


def test_a_partial_file_of_other_data_is_deleted_and_the_next_download_restarts(
    server: CifarServer, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / f"{server.file_name}.part").write_bytes(b"something else")
    with pytest.raises(
        UserError, match=r"^\S+ from http://\S+ must have the MD5 checksum \w+, got another; the download was deleted$"
    ):
        server.source(tmp_path / "data").snapshot().read()
    server.check(tmp_path / "data")
    assert server.offsets == [14, 0]


@pytest.mark.parametrize(
    ("behaviours", "reason", "requests"),
    [
        (["absent"], r"http://\S+ answered 404 Not Found", 3),
        (["ignores ranges, cut"], r"http://\S+ broke off after \d+ of \d+ bytes", 4),
        (["cut", "absent"], r"http://\S+ answered 404 Not Found", 4),
        (["broken"], r"http://\S+ answered 500 Internal Server Error", 3),
        (["ignores ranges, cut", "stalls"], r"http://\S+ broke off: timed out", 4),
    ],
    ids=str,
)
def test_the_error_names_a_failing_server_and_received_bytes_are_kept(
    server: CifarServer, tmp_path: Path, behaviours: list[Behaviour], reason: str, requests: int
) -> None:
    server.behaviours = list(behaviours)
    with pytest.raises(UserError) as error:
        server.source(tmp_path / "data").snapshot().read()
    assert re.fullmatch(
        re.escape(server.error_prefix(tmp_path / "data")) + reason + re.escape(server.error_suffix), str(error.value)
    ), str(error.value)
    assert len(server.offsets) == requests
    assert (tmp_path / "data" / f"{server.file_name}.part").exists() == (behaviours not in (["absent"], ["broken"]))
    assert not (tmp_path / "data" / server.file_name).exists()


@pytest.mark.parametrize("behaviour", ["stalls", "broken", "circle"])
def test_a_failing_server_may_recover(server: CifarServer, tmp_path: Path, behaviour: Behaviour) -> None:
    server.behaviours = [behaviour, "whole"]
    server.check(tmp_path / "data")


def test_a_server_that_sends_its_reader_in_a_circle_is_named_on_one_line(server: CifarServer, tmp_path: Path) -> None:
    server.behaviours = ["circle"]
    with pytest.raises(
        UserError, match=r": http://\S+ answered 302 The HTTP server returned a redirect error .*"
    ) as error:
        server.source(tmp_path / "data").snapshot().read()
    assert "\n" not in str(error.value)


def test_an_endless_answer_is_deleted(server: CifarServer, tmp_path: Path) -> None:
    server.behaviours = ["endless"]
    with pytest.raises(
        UserError, match=r"^http://\S+ must have at most 4,194,304 bytes, got more; the download was deleted$"
    ):
        server.source(tmp_path / "data").snapshot().read()
    assert file_names(tmp_path / "data") <= {f".{server.file_name}.lock"}


def test_a_file_with_another_checksum_is_deleted_and_named(server: CifarServer, tmp_path: Path) -> None:
    server.behaviours = ["changed"]
    with pytest.raises(UserError, match=r"^cifar-\d+-python\.tar\.gz from http://\S+ must have the MD5 checksum "):
        server.source(tmp_path / "data").snapshot().read()
    assert file_names(tmp_path / "data") <= {f".{server.file_name}.lock"}

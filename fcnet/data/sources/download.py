"""One file over HTTP: gone on with after an interruption, and believed when its sum is right."""

from __future__ import annotations

import hashlib
import re
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from fcnet.runtime.errors import UserError
from fcnet.runtime.files import fsync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from pathlib import Path

MAX_ATTEMPTS = 3
RETRY_SECONDS = 1.0
_TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 18


def download(url: str, path: Path, md5: str) -> None:
    """Downloads a file, or the rest of it where an earlier download was interrupted.

    What has come lies in ``NAME.part`` beside ``path``. Neither this call nor a later one asks for
    it again where the server can send the rest alone; otherwise the file comes from its beginning.
    It gets its name once its sum is right. One process at a time may download to one path.

    Args:
        url: where the file is.
        path: where it is wanted; its folder must exist, and a file of this name is replaced.
        md5: the MD5 sum of the file, in hexadecimal.

    Raises:
        UserError: the file is whole and has another sum; it is thrown away.
        ConnectionError: `MAX_ATTEMPTS` connections one after another brought nothing new.
        OSError: the disk does not take the file.
    """
    part = path.with_name(f"{path.name}.part")
    if not md5_matches(part, md5):
        _download_with_retries(part, url)
    if not md5_matches(part, md5):
        part.unlink()
        raise UserError(f"{path.name} from {url} must have the MD5 sum {md5}, got another: it was thrown away")
    fsync(part)
    part.replace(path)
    fsync(path.parent)


def md5_matches(path: Path, md5: str) -> bool:
    """Whether there is a file at ``path`` and its MD5 sum is this one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def _download_with_retries(part: Path, url: str) -> None:
    most, failures = _file_size(part), 0
    while True:
        try:
            _resume_download(part, url)
        except ConnectionError:
            size = _file_size(part)
            failures = 0 if size > most else failures + 1
            most = max(size, most)
            if failures == MAX_ATTEMPTS:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


def _resume_download(part: Path, url: str) -> None:
    """Brings ``part`` to its end in one connection; a ConnectionError when that breaks off."""
    response, start, total = _open_range(url, _file_size(part))
    with response, part.open("r+b" if start else "wb") as file:
        file.seek(start)
        for chunk in _iter_chunks(response):
            file.write(chunk)
        if total is not None and file.tell() < total:
            raise ConnectionError(f"{url} broke off after {file.tell()} of {total} bytes")


def _open_range(url: str, have: int) -> tuple[HTTPResponse, int, int | None]:
    """The server's answer, the place of its first byte in the file, and the file's size if known."""
    if have and (response := _open_url(url, {"Range": f"bytes={have}-"})):
        if response.status == 200:
            return response, 0, response.length
        content = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if response.status == 206 and content and int(content[1]) == have:
            return response, have, None if content[2] == "*" else int(content[2])
        response.close()
    response = _open_url(url, {})
    if response is None or response.status != 200:
        raise ConnectionError(f"{url} must answer with the whole file")
    return response, 0, response.length


def _open_url(url: str, headers: dict[str, str]) -> HTTPResponse | None:
    """An answer whose body is yet to be read; None when there are no such bytes (416)."""
    request = Request(url, headers={"User-Agent": "fcnet", "Accept-Encoding": "identity", **headers})
    try:
        return cast("HTTPResponse", urlopen(request, timeout=_TIMEOUT_SECONDS))
    except HTTPError as error:
        with error:
            if error.code == 416:
                return None
            raise ConnectionError(f"{url} answered {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{url} cannot be reached: {_error_reason(error)}") from error


def _iter_chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read(_CHUNK_BYTES):
            yield chunk
    except (OSError, HTTPException) as error:
        raise ConnectionError(f"{response.url} broke off: {_error_reason(error)}") from error


def _error_reason(error: Exception) -> str:
    """What is behind an error of urllib's, in one line."""
    reason = getattr(error, "reason", error)
    return " ".join(str(getattr(reason, "strerror", None) or reason or type(error).__name__).split())


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

"""Downloads of one file over HTTP: interrupted downloads resume, and a checksum verifies the result."""

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
TIMEOUT_SECONDS = 30.0
"""Time to wait for the next bytes."""
MAX_BYTES = 1 << 30
"""Size of a file at most, so that an endless answer does not fill the disk."""
_CHUNK_BYTES = 1 << 18


def download(url: str, path: Path, md5: str) -> None:
    """Downloads a file, or the rest of it if an earlier download was interrupted.

    Received bytes are kept in ``NAME.part`` beside ``path``, which is renamed once its checksum matches. A download
    resumes there if the server supports ranges, and restarts otherwise. Only one process may download to a path.

    Args:
        url: the address of the file.
        path: the file to create or replace; its folder must exist.
        md5: the MD5 checksum of the file, in hexadecimal.

    Raises:
        UserError: the complete file has another checksum, or it has more than `MAX_BYTES`; it is deleted.
        ConnectionError: `MAX_ATTEMPTS` connections in a row received nothing new.
        OSError: the file could not be written.
    """
    part = path.with_name(f"{path.name}.part")
    if not md5_matches(part, md5):
        _download_with_retries(part, url)
    if not md5_matches(part, md5):
        part.unlink()
        raise UserError(
            f"{path.name} from {url} must have the MD5 checksum {md5}, got another; the download was deleted"
        )
    fsync(part)
    part.replace(path)
    fsync(path.parent)


def md5_matches(path: Path, md5: str) -> bool:
    """Returns whether ``path`` is a file with this MD5 checksum."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def _download_with_retries(part: Path, url: str) -> None:
    largest, failures = _file_size(part), 0
    while True:
        try:
            _resume_download(part, url)
        except ConnectionError:
            # Only attempts without progress count: a connection that breaks every minute still gets the file.
            size = _file_size(part)
            failures = 0 if size > largest else failures + 1
            largest = max(size, largest)
            if failures == MAX_ATTEMPTS:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


def _resume_download(part: Path, url: str) -> None:
    """Appends the rest of the file to ``part`` over one connection; raises ConnectionError if it breaks off."""
    response, start, total = _open_range(url, _file_size(part))
    with response, part.open("r+b" if start else "wb") as file:
        file.seek(start)
        for chunk in _iter_chunks(response):
            if file.tell() + len(chunk) > MAX_BYTES:
                part.unlink()
                raise UserError(f"{url} must have at most {MAX_BYTES:,} bytes, got more; the download was deleted")
            file.write(chunk)
        if total is not None and file.tell() < total:
            raise ConnectionError(f"{url} broke off after {file.tell()} of {total} bytes")


def _open_range(url: str, have: int) -> tuple[HTTPResponse, int, int | None]:
    """Opens the file from byte ``have`` on, or from its start if the server does not support ranges.

    Returns:
        The response, the offset of its first byte in the file, and the size of the file if known.
    """
    if have and (response := _open_url(url, {"Range": f"bytes={have}-"})):
        if response.status == 200:
            return response, 0, response.length
        content = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if response.status == 206 and content and int(content[1]) == have:
            return response, have, None if content[2] == "*" else int(content[2])
        response.close()
    response = _open_url(url, {})
    if response is None or response.status != 200:
        status = "416" if response is None else response.status
        raise ConnectionError(f"{url} must answer with the whole file, got status {status}")
    return response, 0, response.length


def _open_url(url: str, headers: dict[str, str]) -> HTTPResponse | None:
    """Opens a response, its body unread; returns None if the requested range does not exist (416)."""
    request = Request(url, headers={"User-Agent": "fcnet", "Accept-Encoding": "identity", **headers})
    try:
        return cast("HTTPResponse", urlopen(request, timeout=TIMEOUT_SECONDS))
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
    """Returns the cause of a urllib error, on one line."""
    reason = getattr(error, "reason", error)
    return " ".join(str(getattr(reason, "strerror", None) or reason or type(error).__name__).split())


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

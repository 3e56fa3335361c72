"""Tests of fcnet.data.store.integrity."""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

import numpy as np

from fcnet.data.store import integrity
from fcnet.data.store.integrity import block_checksums, content_fingerprint

if TYPE_CHECKING:
    import pytest


def test_each_block_has_the_crc_32_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "_BLOCK_BYTES", 16)
    labels = np.arange(5)
    content = labels.tobytes()
    expected = [zlib.crc32(content[start : start + 16]) for start in (0, 16, 32)]
    assert block_checksums({"labels": labels, "none": labels[:0]}) == {"labels": expected, "none": []}


def test_the_fingerprint_is_the_sha_256_of_the_parts_and_their_sizes() -> None:
    pixels, labels = np.arange(6, dtype=np.uint8).reshape(2, 1, 1, 3), np.array([0, 1])
    head = b'[["a", "b"], [1, 1, 3], [2, 2]]'
    expected = hashlib.sha256(head + pixels.tobytes() + labels.tobytes()).hexdigest()
    assert content_fingerprint(("a", "b"), (1, 1, 3), [pixels, labels]) == expected

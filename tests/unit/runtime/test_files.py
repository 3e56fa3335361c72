"""Tests of fcnet.runtime.files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from fcnet.runtime import files
from fcnet.runtime.errors import UserError
from fcnet.runtime.files import (
    ChecksummedFolder,
    atomic_write,
    read_checksummed,
    read_json,
    read_metadata,
    remove_temporary_files,
    sha256,
    write_checksummed,
    write_json,
    write_text,
)
from tests.helpers import assert_identical

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA: dict[str, Any] = {"format": 1, "classes": ["cat", "köttur", "猫"], "mean": [0.1, 1e-300], "none": None}
TENSORS = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.tensor([1.5])}
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_text_is_written_as_utf_8_and_replaced_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_text(file, "a long first text\r\n")
    assert file.read_bytes() == b"a long first text\r\n"
    write_text(file, "žluť\n")
    assert file.read_bytes() == b"\xc5\xbelu\xc5\xa5\n"
    assert names(tmp_path) == {"file.txt"}


def test_the_old_bytes_stay_until_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_text(file, "old")
    with atomic_write(file) as temporary:
        assert temporary.parent.parent == tmp_path
        assert temporary.name == "file.txt"
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def fail_halfway(file: Path, error: BaseException) -> None:
    with atomic_write(file) as temporary:
        temporary.write_text("half of the n")
        raise error


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
@pytest.mark.parametrize("there", [True, False])
def test_a_failing_block_changes_nothing_and_leaves_no_file(error: BaseException, there: bool, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    if there:
        write_text(file, "old")
    with pytest.raises(type(error)):
        fail_halfway(file, error)
    assert names(tmp_path) == ({"file.txt"} if there else set())
    assert not there or file.read_text() == "old"


def test_the_temporary_files_of_safetensors_go_with_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes ``.tmpXXXXXX`` beside the file that it is given; killed there, it leaves it."""
    listed: list[list[str]] = []

    def killed(tensors: dict[str, Tensor], path: Path) -> None:
        path.with_name(".tmpbOR864").write_bytes(b"half of the tensors")
        listed.append([entry.name for entry in tmp_path.iterdir()])
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", killed)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if the process had ended
    with pytest.raises(KeyboardInterrupt):
        write_checksummed(tmp_path / "pair", TENSORS, METADATA)
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert listed == [[left.name]]
    remove_temporary_files(tmp_path)
    assert names(tmp_path) == set()


def test_temporary_files_are_removed_and_files_of_the_user_are_kept(tmp_path: Path) -> None:
    kept = {".tmpbOR864", ".my.notes.markdown", ".gitignore", ".x.abcd1234.tmp", "x.abcd1234.tmp", ".x.y.tmp", "below"}
    for name in kept - {"below"}:
        (tmp_path / name).write_text("mine")
    for folder in (tmp_path, tmp_path / "below"):
        (folder / ".x.json.abcd123_.tmp").mkdir(parents=True)
        (folder / ".x.json.abcd123_.tmp" / "x.json").write_text("half of")
    remove_temporary_files(tmp_path)
    assert names(tmp_path) == kept
    assert names(tmp_path / "below") == set()


def test_temporary_files_that_vanish_meanwhile_are_passed_over(tmp_path: Path) -> None:
    ended = threading.Event()

    def write_and_end() -> None:
        while not ended.is_set():
            for number in range(10):
                folder = tmp_path / f".page.html.abcdefg{number}.tmp"
                with contextlib.suppress(OSError):
                    folder.mkdir()
            for number in range(10):
                with contextlib.suppress(OSError):
                    (tmp_path / f".page.html.abcdefg{number}.tmp").rmdir()

    writer = threading.Thread(target=write_and_end)
    writer.start()
    try:
        for _ in range(200):
            remove_temporary_files(tmp_path)
    finally:
        ended.set()
        writer.join()


def test_text_that_utf_8_cannot_encode_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "file.txt", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "file.txt", "\ud800")
    assert (tmp_path / "file.txt").read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_the_contents_reach_the_disk_before_the_rename_and_the_name_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.txt"
    synced: list[tuple[Path, bool]] = []

    def fsync(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink(), file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(file) as temporary:
        temporary.write_text("new")
    assert synced == [(temporary, False), (tmp_path, True)]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o000, 0o666)])
def test_permissions_are_those_of_a_new_file(mask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "file.txt", "text")
        write_checksummed(tmp_path / "pair", TENSORS, METADATA)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {mode}


def test_files_and_bytes_are_hashed_one_after_another(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(file) == sha256(b"abc") == sha256(b"a", memoryview(b"bc")) == expected
    assert sha256(b"0", file, file) == hashlib.sha256(b"0abcabc").hexdigest()
    assert sha256() == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_dtype_and_shape_are_read_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randint(0, 256, (5, 6, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cube = (values % 2).bool() if dtype == torch.bool else values.view(dtype)
    if dtype.is_floating_point or dtype.is_complex:
        cube = torch.nan_to_num(cube)
    tensors = {
        "cube": cube,
        "scalar": cube[0, 0, 0],
        "empty": cube[:0],
        "part": cube[1:3, 2:, :1],
        "transposed": cube.mT,
        "expanded": cube[:1, :1].expand(4, 3, -1),
        "strided": cube[::2, ::3],
    }
    write_checksummed(tmp_path / "pair", tensors, {})
    assert_identical(read_checksummed(tmp_path / "pair")[0], tensors)


def test_infinities_and_nan_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    bits = torch.tensor([0x7F800000, 0x7FC00001, 0x7FABCDEF, -0x80000000, 1], dtype=torch.int32)
    write_checksummed(tmp_path / "pair", {"x": bits.view(torch.float32)}, {})
    assert torch.equal(read_checksummed(tmp_path / "pair")[0]["x"].view(torch.int32), bits)


def test_an_empty_set_of_tensors_is_read_back_empty(tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", {}, METADATA)
    assert read_checksummed(tmp_path / "pair")[0] == {}


def test_tensors_may_share_memory(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    tensors = {
        "again": whole,
        "first": whole,
        "half": whole[:6],
        "overlapping": whole[3:9],
        "turned": whole.view(3, 4).T,
        "parameter": torch.nn.Parameter(whole),
        "conjugate": torch.complex(whole, whole).conj(),
        "negative": torch.complex(whole, whole).conj().imag[1:2],
    }
    write_checksummed(tmp_path / "pair", tensors, {})
    assert_identical(
        read_checksummed(tmp_path / "pair")[0], {name: tensor.detach() for name, tensor in tensors.items()}
    )


def test_tensors_are_copied_only_if_they_share_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses: dict[str, int] = {}

    def record_addresses(tensors: dict[str, Tensor], path: Path) -> None:
        addresses.update({name: tensor.data_ptr() for name, tensor in tensors.items()})
        path.touch()

    monkeypatch.setattr("safetensors.torch.save_file", record_addresses)
    one, two = torch.zeros(3), torch.zeros(3)
    write_checksummed(tmp_path / "pair", {"one": one, "two": two, "again": one}, {})
    assert (addresses["one"], addresses["two"]) == (one.data_ptr(), two.data_ptr())
    assert addresses["again"] != one.data_ptr()


def test_metadata_are_read_back_unchanged(tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", TENSORS, METADATA)
    metadata = read_metadata(tmp_path / "pair")
    assert {key: metadata[key] for key in METADATA} == METADATA
    assert read_checksummed(tmp_path / "pair")[1] == metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {"checksum": "mine"},
        {"checksum": "0" * 64},
        {"checksum": "0" * 64, "tensors": 3, "last": 1},
        {"source": {"checksum": "0" * 64}},
        {"source": {"checksum": "a" * 64}},
        {"text": f'"checksum": "{"0" * 64}"\n}}\n'},
    ],
)
def test_metadata_may_hold_checksums_of_their_own(metadata: dict[str, Any], tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", TENSORS, metadata)
    tensors, back = read_checksummed(tmp_path / "pair")
    assert_identical(tensors, TENSORS)
    assert {key: back[key] for key in metadata if key not in {"checksum", "tensors"}} == {
        key: value for key, value in metadata.items() if key not in {"checksum", "tensors"}
    }


def test_a_pair_that_was_read_can_be_written_again(tmp_path: Path) -> None:
    write_checksummed(tmp_path / "one", TENSORS, METADATA)
    write_checksummed(tmp_path / "two", *read_checksummed(tmp_path / "one"))
    assert_identical(read_checksummed(tmp_path / "two")[0], TENSORS)
    assert read_checksummed(tmp_path / "two")[1]["tensors"]["file"] == "two.safetensors"


def test_other_libraries_read_the_files(tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", TENSORS, METADATA)
    assert names(tmp_path) == {"pair.safetensors", "pair.json"}
    assert_identical(load_file(tmp_path / "pair.safetensors"), TENSORS)
    metadata = json.loads((tmp_path / "pair.json").read_text(encoding="utf-8"))
    checksum = metadata["checksum"]
    assert metadata == METADATA | {
        "tensors": {
            "file": "pair.safetensors",
            "sha256": hashlib.sha256((tmp_path / "pair.safetensors").read_bytes()).hexdigest(),
        },
        "checksum": checksum,
    }
    zeroed = (tmp_path / "pair.json").read_bytes().replace(checksum.encode(), b"0" * 64)
    assert hashlib.sha256(zeroed).hexdigest() == checksum


@pytest.mark.parametrize("metadata", [{"loss": float("nan")}, {"text": "\ud800"}, {"file": Path()}])
def test_metadata_that_json_cannot_hold_leave_the_old_pair(metadata: dict[str, Any], tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", TENSORS, METADATA)
    with pytest.raises((ValueError, TypeError)):
        write_checksummed(tmp_path / "pair", {"other": torch.zeros(3)}, metadata)
    assert_identical(read_checksummed(tmp_path / "pair")[0], TENSORS)
    assert names(tmp_path) == {"pair.safetensors", "pair.json"}


@pytest.fixture(scope="module")
def pair() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        write_checksummed(Path(folder) / "pair", TENSORS, METADATA)
        yield Path(folder) / "pair"


def refusal(stem: Path, ending: str, content: bytes) -> str:
    """Returns the error of reading the pair while one of its files has other content."""
    file = stem.with_suffix(ending)
    whole = file.read_bytes()
    file.write_bytes(content)
    try:
        with pytest.raises(UserError) as error:
            read_checksummed(stem)
    finally:
        file.write_bytes(whole)
    return str(error.value)


def damage_message(stem: Path, ending: str) -> str:
    written_in = {".json": "it", ".safetensors": "pair.json"}[ending]
    return f"{stem.with_suffix(ending)} is damaged: its bytes do not match the checksum in {written_in}"


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_a_changed_byte_is_detected_at_every_position(ending: str, pair: Path) -> None:
    whole = pair.with_suffix(ending).read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        assert refusal(pair, ending, bytes(changed)) == damage_message(pair, ending), position


@given(ending=st.sampled_from([".json", ".safetensors"]), data=st.data())
def test_a_shortened_extended_or_altered_file_is_detected(ending: str, data: st.DataObject, pair: Path) -> None:
    whole = pair.with_suffix(ending).read_bytes()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    changed = whole[:start] + data.draw(st.binary(max_size=8) | st.just(b"\n") | st.just(whole)) + whole[stop:]
    if changed != whole:
        assert refusal(pair, ending, changed) == damage_message(pair, ending)


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_a_file_truncated_at_any_length_is_detected(ending: str, pair: Path) -> None:
    whole = pair.with_suffix(ending).read_bytes()
    for length in range(len(whole)):
        assert refusal(pair, ending, whole[:length]) == damage_message(pair, ending), length


def test_tensors_of_another_pair_are_detected(pair: Path, tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", {"weight": torch.zeros(2, 3), "bias": torch.zeros(1)}, METADATA)
    other = (tmp_path / "pair.safetensors").read_bytes()
    assert refusal(pair, ".safetensors", other) == damage_message(pair, ".safetensors")


@pytest.mark.parametrize("ending", [".json", ".safetensors"])
def test_a_missing_file_is_named(ending: str, tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", TENSORS, METADATA)
    file = (tmp_path / "pair").with_suffix(ending)
    file.unlink()
    with pytest.raises(UserError) as error:
        read_checksummed(tmp_path / "pair")
    assert str(error.value) == f"{file}: no such file"


def test_metadata_are_read_without_their_tensors(tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", TENSORS, METADATA)
    (tmp_path / "pair.safetensors").unlink()
    assert read_metadata(tmp_path / "pair")["format"] == 1


def test_dots_in_the_name_are_kept(tmp_path: Path) -> None:
    write_checksummed(tmp_path / "step-1.5", TENSORS, METADATA)
    assert names(tmp_path) == {"step-1.5.safetensors", "step-1.5.json"}
    assert_identical(read_checksummed(tmp_path / "step-1.5")[0], TENSORS)


def test_a_json_object_carries_its_own_checksum(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, {"a": [1, None, "é"], "checksum": "mine"})
    content = read_json(file)
    assert content == {"a": [1, None, "é"], "checksum": json.loads(file.read_bytes())["checksum"]}
    write_json(file, content)
    assert read_json(file) == content


def reseal(file: Path, text: str) -> None:
    """Writes a text with a checksum that fits, as a stranger may."""
    data = f'{text[:-2]},\n  "checksum": "{"0" * 64}"\n}}\n'.encode()
    file.write_bytes(data.replace(b"0" * 64, sha256(data).encode()))


@pytest.mark.parametrize("text", ['{"a": }\n', '{"a": ' + "[" * 100_000 + "}\n", '["a"}\n', '{"a": "\xff"}}\n'])
def test_a_resealed_file_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    reseal(tmp_path / "x.json", text)
    with pytest.raises(UserError, match=r"x\.json is damaged: expected a JSON object, got '"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("text", ['{"tensors": 1}\n', '{"tensors": {}}\n', '{"a": 1}\n'])
def test_resealed_metadata_without_the_checksum_of_the_tensors_are_refused(text: str, tmp_path: Path) -> None:
    write_checksummed(tmp_path / "pair", TENSORS, METADATA)
    reseal(tmp_path / "pair.json", text)
    with pytest.raises(
        UserError, match=r"pair\.safetensors is damaged: its bytes do not match the checksum in pair\.json"
    ):
        read_checksummed(tmp_path / "pair")


def test_tensors_with_the_right_checksum_and_the_wrong_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pair.safetensors").write_bytes(b"no tensors")
    reseal(tmp_path / "pair.json", f'{{"tensors": {{"sha256": "{sha256(b"no tensors")}"}}}}\n')
    with pytest.raises(UserError, match=r"pair\.safetensors must be a safetensors file, got: "):
        read_checksummed(tmp_path / "pair")


# --- files with checksums beside them ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> ChecksummedFolder:
    """A folder with a file that was written twice, and one that was written once."""
    folder = ChecksummedFolder(tmp_path)
    for name, data in (("lines.txt", b"one\n"), ("lines.txt", b"one\ntwo\n"), ("other.txt", b"other")):
        folder.write(name, data)
    return folder


def test_files_keep_their_own_form_beside_their_checksums(folder: ChecksummedFolder) -> None:
    assert names(folder.path) == {"lines.txt", "other.txt", "checksums.json"}
    assert (folder.path / "lines.txt").read_bytes() == folder.read("lines.txt") == b"one\ntwo\n"
    assert folder.read("other.txt") == b"other"
    assert folder.read("never.txt") is None
    assert read_json(folder.checksums_file)["files"] == {
        "lines.txt": [sha256(b"one\ntwo\n")],
        "other.txt": [sha256(b"other"), None],
    }


@pytest.mark.parametrize("name", ["lines.txt", "other.txt", "checksums.json"])
def test_every_changed_bit_is_refused_by_name(name: str, folder: ChecksummedFolder) -> None:
    file, read = folder.path / name, "lines.txt" if name == "checksums.json" else name
    whole, source = file.read_bytes(), "it" if name == "checksums.json" else "checksums.json"
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        with pytest.raises(UserError) as error:
            folder.read(read)
        assert str(error.value) == f"{file} is damaged: its bytes do not match the checksum in {source}", bit


@pytest.mark.parametrize("name", ["lines.txt", "checksums.json"])
def test_a_file_that_is_gone_is_named(name: str, folder: ChecksummedFolder) -> None:
    (folder.path / name).unlink()
    with pytest.raises(UserError) as error:
        folder.read("lines.txt")
    assert str(error.value) == f"{folder.path / name}: no such file"


def test_a_file_that_nobody_wrote_is_refused(folder: ChecksummedFolder) -> None:
    (folder.path / "new.txt").write_text("a stranger's")
    with pytest.raises(
        UserError, match=r"new\.txt is damaged: its bytes do not match the checksum in checksums\.json$"
    ):
        folder.read("new.txt")


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("name", ["lines.txt", "new.txt"])
@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_kill_between_checksum_and_file_leaves_both_readable(
    name: str, writes: int, folder: ChecksummedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = folder.read(name)
    write, left = files.write_bytes, [writes]

    def write_or_die(path: Path, data: bytes) -> None:
        if not left[0]:
            raise KilledError
        left[0] -= 1
        write(path, data)

    monkeypatch.setattr(files, "write_bytes", write_or_die)
    with contextlib.suppress(KilledError):
        folder.write(name, b"three\n")
    monkeypatch.undo()
    assert folder.read(name) == (b"three\n" if writes == 2 else before)
    assert folder.read("other.txt") == b"other"
    for data in (b"four\n", b"five\n"):  # and so does the next write
        folder.write("other.txt", data)
        assert folder.read(name) == (b"three\n" if writes == 2 else before)
    folder.write(name, b"six\n")
    assert (folder.read(name), folder.read("other.txt")) == (b"six\n", b"five\n")


def test_damaged_contents_are_never_believed_because_they_were_replaced(
    folder: ChecksummedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.path / "lines.txt").write_bytes(b"one\ntwp\n")
    write = files.write_bytes

    def only_checksums(path: Path, data: bytes) -> None:
        if path.name != "lines.txt":
            write(path, data)

    monkeypatch.setattr(files, "write_bytes", only_checksums)
    folder.write("lines.txt", b"three\n")
    with pytest.raises(UserError, match="is damaged"):
        folder.read("lines.txt")


def test_a_reader_beside_a_writer_reads_old_or_new_contents(
    folder: ChecksummedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes twice after the checksums were read."""
    read, pending = Path.read_bytes, [b"three\n", b"four\n"]

    def read_after_writes(path: Path) -> bytes:
        if path.name == "lines.txt":
            while pending:
                folder.write("lines.txt", pending.pop(0))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_after_writes)
    assert folder.read("lines.txt") == b"four\n"


@pytest.mark.parametrize(
    "text", ['{"files": []}\n', '{"files": {"lines.txt": 1}}\n', '{"files": {"lines.txt": []}}\n', '{"a": 1}\n']
)
def test_resealed_checksums_of_another_structure_are_refused(text: str, folder: ChecksummedFolder) -> None:
    reseal(folder.checksums_file, text)
    with pytest.raises(UserError, match=r"checksums\.json is damaged: it must hold a list of checksums for each file$"):
        folder.read("lines.txt")


def test_damaged_checksums_are_not_written_over(folder: ChecksummedFolder) -> None:
    folder.checksums_file.write_bytes(b"{}")
    with pytest.raises(UserError, match=r"checksums\.json is damaged"):
        folder.write("lines.txt", b"three\n")
    folder.adopt("other.txt")
    assert folder.read("other.txt") == b"other"
    with pytest.raises(UserError, match=r"lines\.txt is damaged"):
        folder.read("lines.txt")

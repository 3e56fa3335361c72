"""Tests of the arrays source; its errors are tested with the commands."""

from __future__ import annotations

import io
import re
import zipfile
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from fcnet.data import sources
from fcnet.data.sources import size_limits
from fcnet.data.sources.npz import read_arrays
from fcnet.data.store.store import open_store
from fcnet.runtime.errors import UserError
from tests.helpers import measure_peak

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

PIXELS = np.arange(6 * 3 * 4 * 5, dtype=np.int64).reshape(6, 3, 4, 5).astype(np.uint8)
LABELS = np.array([0, 2, 1, 0, 2, 1])


def save_arrays(path: Path, x: npt.NDArray[np.uint8], y: npt.NDArray[Any] = LABELS, **more: npt.NDArray[Any]) -> Path:
    arrays: dict[str, Any] = {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2], **more}
    np.savez(path / "x.npz", **arrays)
    return path / "x.npz"


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (PIXELS, (3, 4, 5)),
        (PIXELS.transpose(0, 2, 3, 1), (3, 4, 5)),
        (PIXELS[:, 0], (1, 4, 5)),
        (PIXELS[:, :1], (1, 4, 5)),
        (PIXELS[:, 0, :, :, None], (1, 4, 5)),
        (PIXELS[..., :3], (3, 4, 3)),
    ],
)
def test_channels_may_come_first_or_last_or_be_missing(
    x: npt.NDArray[np.uint8], shape: tuple[int, ...], tmp_path: Path
) -> None:
    splits = read_arrays(save_arrays(tmp_path, x)).splits
    for split, size in (("train", 6), ("test", 2)):
        pixels, labels = splits[split]  # type: ignore[index]
        assert pixels.shape == (size, *shape)
        np.testing.assert_array_equal(pixels, PIXELS[:size, : shape[0], :, : shape[2]])
        np.testing.assert_array_equal(labels, LABELS[:size])


@pytest.mark.parametrize("y", [LABELS.astype(np.uint8), LABELS[:, None], LABELS.astype(np.int32)], ids=str)
def test_labels_may_have_any_integer_dtype_and_a_second_axis(y: npt.NDArray[Any], tmp_path: Path) -> None:
    classes, splits, _ = read_arrays(save_arrays(tmp_path, PIXELS, y))
    assert classes == ("0", "1", "2")
    assert splits["train"][1].dtype == np.int64
    np.testing.assert_array_equal(splits["train"][1], LABELS)


def test_given_class_names_are_used(tmp_path: Path) -> None:
    names = np.array(["cat", "köttur", "猫"])
    assert read_arrays(save_arrays(tmp_path, PIXELS, classes=names))[0] == tuple(names)


def test_a_store_holds_the_arrays_and_a_change_makes_a_new_one(tmp_path: Path) -> None:
    path = save_arrays(tmp_path, PIXELS)
    store = open_store(sources.arrays(path), tmp_path / "cache")
    assert_close(store.train.pixels, torch.from_numpy(PIXELS), rtol=0, atol=0)
    assert store.train.labels.tolist() == LABELS.tolist()
    save_arrays(tmp_path, 255 - PIXELS)
    again = open_store(sources.arrays(path), tmp_path / "cache")
    assert again.fingerprint != store.fingerprint
    assert_close(again.test.pixels, torch.from_numpy(255 - PIXELS[:2]), rtol=0, atol=0)


def read_error(path: Path) -> str:
    with pytest.raises(UserError) as error:
        read_arrays(path)
    message = str(error.value)
    assert "\n" not in message
    return message.replace(str(path), "x.npz")


def write_members(path: Path, **members: bytes | None) -> Path:
    """Changes members of the archive of `save_arrays`, compressed; None removes a member."""
    whole: dict[str, bytes | None] = {
        name: npy_bytes(array)
        for name, array in {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:2], "y_test": LABELS[:2]}.items()
    }
    with zipfile.ZipFile(path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (whole | members).items():
            if content is not None:
                archive.writestr(f"{name}.npy", content)
    return path / "x.npz"


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def npy_header(header: str, version: bytes = b"\x01\x00") -> bytes:
    """Returns a member that consists of this header alone."""
    text = header.encode() + b"\n"
    size = len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little")
    return b"\x93NUMPY" + version + size + text


def shaped(shape: object, dtype: str = "|u1") -> bytes:
    return npy_header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<i8", ">i8", ">u2", "<u8", "|i1"])
def test_the_order_in_memory_and_of_bytes_does_not_matter(order: Literal["C", "F"], dtype: str, tmp_path: Path) -> None:
    path = save_arrays(tmp_path, np.array(PIXELS, order=order), LABELS.astype(dtype))
    classes, splits, _ = read_arrays(path)
    assert classes == ("0", "1", "2")
    np.testing.assert_array_equal(splits["train"][0], PIXELS)
    np.testing.assert_array_equal(splits["train"][1], LABELS)
    store = open_store(sources.arrays(path), tmp_path / "cache")
    assert_close(store.train.pixels, torch.from_numpy(PIXELS), rtol=0, atol=0)


def test_members_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    pickled = npy_bytes(np.array([print], dtype=object))
    path = write_members(tmp_path, z=pickled, y=b"no array", **{"x_train/../y": shaped((10**18,))})
    assert read_arrays(path)[0] == ("0", "1", "2")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"x_test": None, "y_test": None},
            "x.npz must hold x_train, y_train, x_test and y_test, found x_train, y_train",
        ),
        ({"x_train": b"no array"}, "x.npz must be a whole NumPy archive (.npz), got: the magic string is not correct"),
        ({"x_train": b""}, "x.npz must be a whole NumPy archive (.npz), got: EOF: reading magic string"),
        ({"x_train": npy_header("{}")}, "x.npz must be a whole NumPy archive (.npz), got: Header does not contain"),
        ({"x_train": npy_header("x" * 60000)}, "x.npz must be a whole NumPy archive (.npz), got: Header info length"),
        (
            {"x_train": npy_header("-" * 9000 + "1")},
            "x.npz must be a whole NumPy archive (.npz), got: x_train has a bro",
        ),
        ({"x_train": npy_header("{}", b"\x07\x00")}, "x.npz must be a whole NumPy archive (.npz), got: "),
        ({"x_train": npy_bytes(np.array([1, None]))}, "x_train in x.npz must be uint8, got object"),
        (
            {"y_train": npy_bytes(np.array([1, None]))},
            "y_train in x.npz must be whole numbers or class names, got object",
        ),
        (
            {"y_train": npy_bytes(np.array(3))},
            "expected x_train (N, …) and y_train (N,) in x.npz, got (6, 3, 4, 5) and ()",
        ),
        ({"x_train": npy_bytes(np.array(3, np.uint8))}, "x_train in x.npz must be (N, H, W), (N, C, H, W) or "),
        ({"classes": npy_bytes(np.array("a"))}, "classes in x.npz must be (C,) different strings, got <U1 ()"),
        (
            {"classes": npy_bytes(np.array([b"a", b"b\xff", b"c"]))},
            "classes in x.npz must be text in UTF-8, got b'b\\xff'",
        ),
        (
            {"classes": npy_bytes(np.array(["a", "b", "a"]))},
            "classes in x.npz must be (C,) different strings, got <U1 (3,)",
        ),
        *(
            (
                {"x_train": shaped(shape)},
                "x.npz must be a whole NumPy archive (.npz), got: x_train has another size than",
            )
            for shape in ((10**9, 3, 32, 32), (2**62, 4, 4), (10**30, 1, 1), (-1, 3, 4), (-1, -1, 1))
        ),
        (
            {"x_train": npy_bytes(PIXELS) + b"\0"},
            "x.npz must be a whole NumPy archive (.npz), got: x_train has another size",
        ),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:60],
)
def test_a_strange_member_is_one_line(members: dict[str, bytes | None], message: str, tmp_path: Path) -> None:
    assert read_error(write_members(tmp_path, **members)).startswith(message)


@pytest.mark.parametrize(
    "header", ["{'descr': (", "{'descr': '|u1', 'shape': (1L,", "{1: 2}", "0x", "'\\d'", "[" * 900]
)
def test_a_header_that_python_cannot_parse_is_one_line(header: str, tmp_path: Path) -> None:
    message = read_error(write_members(tmp_path, x_train=npy_header(header)))
    assert message.startswith("x.npz must be a whole NumPy archive (.npz), got: ")


def test_an_encrypted_member_is_one_line(tmp_path: Path) -> None:
    path = write_members(tmp_path)
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    data[start + 8] |= 1  # the flag in the central directory
    data[6] |= 1
    path.write_bytes(data)
    assert read_error(path).startswith(
        "x.npz must be a whole NumPy archive (.npz), got: File 'x_train.npy' is encrypted"
    )


def test_a_changed_bit_of_the_data_is_one_line(tmp_path: Path) -> None:
    path = save_arrays(tmp_path, PIXELS)
    data = bytearray(path.read_bytes())
    data[data.index(PIXELS[:1].tobytes()) + 5] ^= 1
    path.write_bytes(data)
    assert read_error(path) == "x.npz must be a whole NumPy archive (.npz), got: Bad CRC-32 for file 'x_train.npy'"


def test_a_small_file_of_many_zeros_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x_train.npy", "w") as member:
            member.write(shaped((300, 1024, 1024)))
            for _ in range(300):
                member.write(bytes(1 << 20))
        archive.writestr("y_train.npy", npy_bytes(np.arange(300) % 2))
        archive.writestr("x_test.npy", npy_bytes(np.zeros((2, 1024, 1024), np.uint8)))
        archive.writestr("y_test.npy", npy_bytes(np.arange(2)))
    script = f"""
        from pathlib import Path
        try:
            read_arrays(Path({str(path)!r}))
        except ValueError:
            pass
    """
    assert measure_peak(script, "from fcnet.data.sources.npz import read_arrays")[0] < 50
    message = read_error(path)
    assert re.fullmatch(
        r"x_train in x\.npz must expand to at most 100 times its compressed size, got \d{3} times; "
        r"write it with numpy\.savez",
        message,
    )


def test_arrays_larger_than_the_free_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(size_limits, "free_bytes", lambda device: 1000)
    assert read_error(save_arrays(tmp_path, PIXELS)) == (
        "out of memory: x.npz needs 0.0 GiB more and 0.0 GiB are free; "
        'write the images as files and use data.source = "images"'
    )

"""Tests of fcnet.export.card_writer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from fcnet.export.card_writer import CARD_NAME, covered_files, write_card
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fcnet.export.model_card import ModelCard

    MakeCard = Callable[..., ModelCard]


def test_a_card_covers_all_exports_of_the_model_in_its_folder(make_card: MakeCard, tmp_path: Path) -> None:
    for name in ("b.pt2", "a.onnx"):
        (tmp_path / name).touch()
        assert write_card(make_card(), tmp_path / name) == tmp_path / CARD_NAME
    assert re.search("^`a.onnx`, `b.pt2` each take", (tmp_path / CARD_NAME).read_text(), re.MULTILINE)
    (tmp_path / "a.onnx").unlink()
    write_card(make_card(), tmp_path / "b.pt2")
    assert "a.onnx" not in (tmp_path / CARD_NAME).read_text()


def test_a_card_states_the_opset_of_each_onnx_file(make_card: MakeCard, tmp_path: Path) -> None:
    for name, opset in (("a.onnx", 18), ("b.onnx", 20), ("c.pt2", None)):
        (tmp_path / name).touch()
        write_card(make_card(), tmp_path / name, opset)
    text = (tmp_path / CARD_NAME).read_text()
    assert re.findall("^With (.*?), numpy", text, re.MULTILINE) == [
        "onnxruntime (opset 18)",
        "onnxruntime (opset 20)",
        "torch",
    ]
    write_card(make_card(), tmp_path / "a.onnx", 23)
    assert "onnxruntime (opset 23), numpy" in (tmp_path / CARD_NAME).read_text()
    assert "opset 18" not in (tmp_path / CARD_NAME).read_text()


def test_a_retrained_model_replaces_the_card_of_its_predecessor(make_card: MakeCard, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").touch()
    write_card(make_card(), tmp_path / "x.pt2")
    write_card(make_card(checksum="b2", name="better"), tmp_path / "x.pt2")
    assert "# better" in (tmp_path / CARD_NAME).read_text()


def test_the_card_of_another_models_files_is_not_replaced(make_card: MakeCard, tmp_path: Path) -> None:
    (tmp_path / "x.pt2").touch()
    write_card(make_card(), tmp_path / "x.pt2")
    before = (tmp_path / CARD_NAME).read_bytes()
    with pytest.raises(UserError, match=r"README\.md describes x\.pt2 of another model; export to another folder$"):
        write_card(make_card(checksum="b2"), tmp_path / "y.pt2")
    assert (tmp_path / CARD_NAME).read_bytes() == before


@pytest.mark.parametrize("change", ["other", "edited", "truncated", "folder"])
def test_a_readme_that_is_not_an_unedited_card_is_not_replaced(
    make_card: MakeCard, tmp_path: Path, change: str
) -> None:
    readme = tmp_path / CARD_NAME
    (tmp_path / "x.pt2").touch()
    write_card(make_card(name="a -->b"), tmp_path / "x.pt2")
    covered_files(make_card(), tmp_path / "x.pt2")
    text = readme.read_text()
    readme.unlink()
    if change == "folder":
        readme.mkdir()
    else:
        readme.write_text(
            {"other": "# Mine\n", "edited": text.replace("eel", "eels", 1), "truncated": text[:-9]}[change]
        )
    with pytest.raises(
        UserError, match=r"README\.md already exists and is not an unedited model card by fcnet; export"
    ):
        covered_files(make_card(), tmp_path / "x.pt2")

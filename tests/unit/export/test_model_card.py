"""A card is what the hub reads and what people can run, and no other file is lost for it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fcnet.config.schema import Augment, Config, Data, Model
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.export.card_writer import CARD_NAME, covered_files, write_card
from fcnet.export.model_card import ModelCard, inline_code, yaml_quote
from fcnet.models.mlp import MLP
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

SUMMARY: dict[str, Any] = {
    "test_accuracy": 0.925,
    "test_interval": [0.9, 0.95],
    "test_loss": 0.25,
    "validation_accuracy": 0.875,
    "train_images": 1200,
    "validation_images": 100,
    "test_images": 400,
    "epochs": 7,
    "train_seconds": 1.25,
    "parameters": 1234,
    "device": "cpu",
    "fcnet": "0.1.0",
    "torch": "2.14.1",
    "warnings": ["layer 1: 40 % of the units are dead"],
}


def make_card(*, classes: tuple[str, ...] = ("cat", "dog", "eel"), resize: bool = False, **changes: Any) -> ModelCard:
    classifier = ImageClassifier(
        MLP(12, (5,), len(classes)),
        classes=classes,
        shape=(3, 2, 2),
        mean=torch.zeros(3),
        std=torch.ones(3),
        resize=resize,
    )
    config = Config(
        data=Data(source="images", path="/home/me/my|pets.tar", augment=Augment(flip=True)), model=Model(hidden=(5,))
    )
    return replace(ModelCard("pets", "a1", classifier, config, SUMMARY), **changes)


def front(text: str) -> dict[str, Any]:
    metadata: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return metadata


def test_the_front_matter_holds_what_the_hub_asks_for() -> None:
    metadata = front(make_card().to_markdown(["pets.onnx", "pets.pt2"]))
    assert metadata.pop("model-index") == [
        {
            "name": "pets",
            "results": [
                {
                    "task": {"type": "image-classification"},
                    "dataset": {"name": "my|pets.tar", "type": "images", "split": "test"},
                    "metrics": [{"type": "accuracy", "value": 0.925, "name": "test accuracy"}],
                }
            ],
        }
    ]
    assert metadata == {
        "library_name": "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "fcnet", "mlp", "pytorch", "onnx"],
        "metrics": ["accuracy"],
    }


def test_a_licence_and_a_dataset_are_named_where_they_are_known() -> None:
    metadata = front(
        make_card(license="apache-2.0", config=Config(data=Data(source="cifar10", path="x"))).to_markdown(["x.onnx"])
    )
    assert (metadata["license"], metadata["datasets"], metadata["library_name"]) == (
        "apache-2.0",
        ["uoft-cs/cifar10"],
        "onnx",
    )


def test_the_text_says_figures_with_their_interval_data_and_limits() -> None:
    text = make_card().to_markdown(["pets.pt2"])
    for said in (
        "layers 12-5-3, 1,234 parameters",
        "92.50% (95 % interval 90.00% to 95.00%)",
        "images to train on, 100 kept aside to choose by and 400 to test on",
        "On my\\|pets.tar: 1,200",
        "changed at random: flip.",
        "`cat`, `dog`, `eel`",
        "Noted in training: layer 1: 40 % of the units are dead.",
        "(B, 3, 2, 2) with any B",
        'torch.export.load("pets.pt2"',
    ):
        assert said in text
    assert "/home/me" not in text
    assert "onnx" not in text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_the_same_to_a_reader_of_yaml(text: str) -> None:
    assert yaml.safe_load(f"name: {yaml_quote(text)}\n") == {"name": text}
    assert "\n" not in yaml_quote(text)


def test_code_within_a_line_holds_any_run_of_backticks() -> None:
    assert (inline_code("a"), inline_code("a`b``"), inline_code("a\nb")) == ("`a`", "``` a`b`` ```", r"`a\nb`")


def test_a_card_is_about_all_files_of_the_network_beside_it(tmp_path: Path) -> None:
    for name in ("b.pt2", "a.onnx"):
        (tmp_path / name).touch()
        assert write_card(make_card(), tmp_path / name) == tmp_path / CARD_NAME
    assert re.search("^`a.onnx`, `b.pt2` each take", (tmp_path / CARD_NAME).read_text(), re.MULTILINE)
    (tmp_path / "a.onnx").unlink()
    write_card(make_card(), tmp_path / "b.pt2")
    assert "a.onnx" not in (tmp_path / CARD_NAME).read_text()


def test_a_network_trained_anew_replaces_the_card_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "x.pt2").touch()
    write_card(make_card(), tmp_path / "x.pt2")
    write_card(make_card(checksum="b2", name="better"), tmp_path / "x.pt2")
    assert "# better" in (tmp_path / CARD_NAME).read_text()


def test_a_card_of_another_networks_file_stays(tmp_path: Path) -> None:
    (tmp_path / "x.pt2").touch()
    write_card(make_card(), tmp_path / "x.pt2")
    before = (tmp_path / CARD_NAME).read_bytes()
    with pytest.raises(UserError, match=r"README\.md must be about this network alone, got x\.pt2 of another; export"):
        write_card(make_card(checksum="b2"), tmp_path / "y.pt2")
    assert (tmp_path / CARD_NAME).read_bytes() == before


@pytest.mark.parametrize("change", ["mine", "edited", "torn", "folder"])
def test_a_readme_that_is_not_as_fcnet_wrote_it_stays(tmp_path: Path, change: str) -> None:
    readme = tmp_path / CARD_NAME
    (tmp_path / "x.pt2").touch()
    write_card(make_card(name="a -->b"), tmp_path / "x.pt2")
    covered_files(make_card(), tmp_path / "x.pt2")
    text = readme.read_text()
    readme.unlink()
    if change == "folder":
        readme.mkdir()
    else:
        readme.write_text({"mine": "# Mine\n", "edited": text.replace("eel", "eels", 1), "torn": text[:-9]}[change])
    with pytest.raises(UserError, match=r"README\.md must be a model card as fcnet wrote it, got another file; export"):
        covered_files(make_card(), tmp_path / "x.pt2")

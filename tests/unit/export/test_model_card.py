"""Tests of fcnet.export.model_card."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fcnet.config.schema import Config, Data
from fcnet.data.transforms.whitening import Whitening
from fcnet.experiment.image_classifier import ImageClassifier
from fcnet.export.model_card import escape_markdown, inline_code, yaml_quote
from fcnet.models.mlp import MLP

if TYPE_CHECKING:
    from collections.abc import Callable

    from fcnet.export.model_card import ModelCard

    MakeCard = Callable[..., ModelCard]


def read_front_matter(text: str) -> dict[str, Any]:
    metadata: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return metadata


def test_the_front_matter_has_the_fields_of_the_hub(make_card: MakeCard) -> None:
    metadata = read_front_matter(make_card().to_markdown(["pets.onnx", "pets.pt2"]))
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


def test_the_front_matter_names_a_known_licence_and_dataset(make_card: MakeCard) -> None:
    metadata = read_front_matter(
        make_card(license="apache-2.0", config=Config(data=Data(source="cifar10", path="x"))).to_markdown(["x.onnx"])
    )
    assert (metadata["license"], metadata["datasets"], metadata["library_name"]) == (
        "apache-2.0",
        ["uoft-cs/cifar10"],
        "onnx",
    )


def test_the_text_has_results_data_usage_and_limitations(make_card: MakeCard) -> None:
    text = make_card().to_markdown(["pets.pt2"])
    for expected in (
        "layers 12-5-3 and 1,234 parameters",
        "RGB images of 2 × 2 pixels into 3 classes.",
        "92.50% (95% interval 90.00% to 95.00%)",
        "1,200 training images, 100 held out for validation, and 400 test images",
        "my\\|pets.tar: 1,200",
        "Data augmentation: flip.",
        "`cat`, `dog`, `eel`",
        "Training warning: layer 1: 40.00% of the units are dead.",
        "(B, 3, 2, 2) for any B",
        'torch.export.load("pets.pt2"',
    ):
        assert expected in text
    assert "/home/me" not in text
    assert "onnx" not in text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_as_yaml(text: str) -> None:
    assert yaml.safe_load(f"name: {yaml_quote(text)}\n") == {"name": text}
    assert "\n" not in yaml_quote(text)


def test_inline_code_can_contain_backticks() -> None:
    assert (inline_code("a"), inline_code("a`b``"), inline_code("a\nb")) == ("`a`", "``` a`b`` ```", r"`a\nb`")


def test_escaped_markdown_is_literal_and_on_one_line() -> None:
    assert escape_markdown("a_b*<c>|\n") == r"a\_b\*\<c\>\|\\n"


def test_logistic_regression_and_whitening_are_described(make_card: MakeCard) -> None:
    classifier = ImageClassifier(
        MLP(4, (), 3),
        classes=("a", "b", "c"),
        shape=(3, 2, 2),
        mean=torch.zeros(3),
        std=torch.ones(3),
        whitening=Whitening(4, 12),
    )
    text = make_card(classifier=classifier).to_markdown(["x.pt2"])
    assert "Logistic regression with layers 4-3" in text
    assert "2 × 2 pixels, reduced to 4 principal components, into 3 classes." in text


def test_a_loss_that_is_not_finite_and_a_missing_validation_split_are_handled(make_card: MakeCard) -> None:
    summary = make_card().summary | {"test_loss": None, "validation_accuracy": None}
    text = make_card(summary=summary).to_markdown(["x.pt2"])
    assert "| test loss (cross-entropy) | not finite |" in text
    assert "| validation accuracy |" not in text


def test_a_temperature_is_described_with_the_calibration_before_and_after(make_card: MakeCard) -> None:
    test = {"before": {"calibration_error": 0.0644}, "after": {"calibration_error": 0.0169}}
    calibration = {"temperature": 0.81569, "reason": None, "test": test}
    row = "| test calibration error | 1.69% (6.44% before temperature scaling with T = 0.8157) |"
    summary = make_card().summary
    assert row in make_card(summary=summary | {"calibration": calibration}).to_markdown(["x.pt2"])
    unchanged = make_card(summary=summary | {"calibration": calibration | {"reason": "x"}})
    for card in (make_card(), unchanged):
        assert "calibration" not in card.to_markdown(["x.pt2"])

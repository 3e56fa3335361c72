"""The contents of ``model.json``, checked before anything is built from them.

The file may come from a stranger: a valid checksum says that it is whole, not that it is true.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fcnet.config.schema import MAX_HIDDEN_LAYERS, ListAsTuple
from fcnet.config.toml import describe_first_error
from fcnet.config.values import is_utf8, shorten_value
from fcnet.experiment.image_classifier import FORMAT_VERSION
from fcnet.models.mlp import MLP, LogisticRegression, num_parameters
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_Size = Annotated[int, Field(ge=1, lt=2**31)]
_PositiveFloat = Annotated[float, Field(gt=0.0)]


class _Arguments(BaseModel):
    """The arguments of `MLP`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    in_features: _Size
    hidden: Annotated[tuple[_Size, ...], ListAsTuple, Field(max_length=MAX_HIDDEN_LAYERS)]
    num_classes: Annotated[int, Field(ge=2, lt=2**31)]
    activation: Literal["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"]
    normalization: Literal["none", "batch", "layer"]
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)]
    residual: bool
    bias: bool


class ModelMetadata(BaseModel):
    """The entries of ``model.json`` that a classifier is built from; further entries are allowed.

    Attributes:
        kind: the class of the model.
        arguments: the arguments of `MLP`.
        classes: the class names, in the order of the labels.
        shape: (channels, height, width) of an image, or (D,) for vectors of D features.
        mean: the mean of each channel, or feature.
        std: the standard deviation of each channel, or feature.
        resize: whether files of another size are resized.
        whiten: the number of components of the whitening; 0 for none.
        temperature: what the last layer was divided by to calibrate it; None if it was not.
        l2_normalize: whether each vector of features is divided by its norm first.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    kind: Literal["mlp", "logistic"]
    arguments: _Arguments
    classes: Annotated[tuple[str, ...], ListAsTuple]
    shape: Annotated[tuple[_Size, ...], ListAsTuple]
    mean: Annotated[tuple[float, ...], ListAsTuple]
    std: Annotated[tuple[_PositiveFloat, ...], ListAsTuple]
    resize: bool
    whiten: Annotated[int, Field(ge=0, lt=2**31)]
    temperature: _PositiveFloat | None = None
    l2_normalize: bool = False

    @model_validator(mode="after")
    def _check_consistency(self) -> ModelMetadata:
        arguments, pixels = self.arguments, math.prod(self.shape)
        parameters = num_parameters([arguments.in_features, *arguments.hidden, arguments.num_classes])
        for rule, broken in (
            ("classes must be different names", len(set(self.classes)) < len(self.classes)),
            ("classes must be UTF-8 text", not all(map(is_utf8, self.classes))),
            ("classes must be as many as num_classes", len(self.classes) != arguments.num_classes),
            ("shape must have 3 values, or 1 for features", len(self.shape) not in (1, 3)),
            (
                "mean and std must have a value for each channel",
                not len(self.mean) == len(self.std) == next(iter(self.shape), 0),
            ),
            ("in_features must be the values of an image", arguments.in_features != (self.whiten or pixels)),
            ("l2_normalize must be false for images", self.l2_normalize and len(self.shape) != 1),
            ("whiten must be at most the values of an image", self.whiten > pixels),
            ("the model must have less than 2⁴⁸ parameters", parameters >= 2**48),
            ("hidden must be empty for logistic regression", self.kind == "logistic" and arguments.hidden != ()),
        ):
            if broken:
                raise ValueError(rule)
        return self

    def make_model(self) -> MLP:
        """Builds the model with initial weights, on torch's default device."""
        arguments = self.arguments.model_dump()
        if self.kind == "logistic":
            return LogisticRegression(arguments["in_features"], arguments["num_classes"], bias=arguments["bias"])
        return MLP(**arguments)


def parse_metadata(content: Mapping[str, Any], file: Path) -> ModelMetadata:
    """Checks the entries of ``model.json``.

    Args:
        content: the JSON object.
        file: the file that holds it, for errors.

    Raises:
        UserError: an entry is missing, or has another type or a value that no classifier has.
    """
    if content.get("format") != FORMAT_VERSION:
        raise UserError(f"{file} must have format version {FORMAT_VERSION}, got {shorten_value(content.get('format'))}")
    try:
        return ModelMetadata.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file}: {describe_first_error(error)}") from None

"""One typed tree for an experiment: what a configuration may say, with one default a field."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


PLAIN_TEXT_RULE = "UTF-8, in one line, without a NUL"


def is_plain_text(text: str) -> bool:
    """Whether a text is UTF-8 that can be said in one line."""
    return text.encode(errors="ignore").decode() == text and text.splitlines() in ([], [text]) and "\0" not in text


_ListAsTuple = BeforeValidator(_as_tuple)


def _check_batch_size(value: object) -> object:
    if value == "all" or (type(value) is int and 1 <= value < 2**31):
        return value
    raise PydanticCustomError("count_or_all", "must be a whole number of at least 1, or 'all'")


def _raise_if_any(errors: list[str]) -> None:
    """Raises what pydantic takes for the rules between fields, ``field|rule|value`` a line, if any was broken."""
    if errors:
        raise ValueError("\n".join(errors))


_PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Section(BaseModel):
    """What all parts of a configuration share: exact types, no unknown key, no change afterwards."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Augment(Section):
    """Changes made to training images, in this order; nothing unless asked for."""

    flip: bool = False
    """Mirror each image left to right with probability ½."""
    shift: int = Field(default=0, ge=0)
    """The most pixels an image is moved along each axis; black moves in."""
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    """The largest angle an image is turned by, in degrees, either way; black moves in."""
    scale: float = Field(default=0.0, ge=0.0, le=10.0)
    """Enlarge or shrink by a factor from 1 / (1 + scale) to 1 + scale, together with rotate."""
    color_jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    """Change saturation, brightness and contrast by a factor each, at most this much from 1."""
    cutout: int = Field(default=0, ge=0)
    """The side of a black square at a random place, in pixels; it may hang over the edge."""
    mixup: float = Field(default=0.0, ge=0.0, le=1000.0)
    """Add up images and labels of two, in shares drawn from Beta(mixup, mixup)."""
    cutmix: float = Field(default=0.0, ge=0.0, le=1000.0)
    """Paste a box of another image, of an area from Beta(cutmix, cutmix); with mixup either, with probability ½."""


class Data(Section):
    """Which images."""

    source: Literal["digits", "cifar10", "cifar100", "images", "arrays", "synthetic"] = "digits"
    """Where images come from."""
    path: str = ""
    """For cifar10 and cifar100 the folder they are kept in; for images a folder or a tar archive of one; for arrays
    a .npz file."""
    classes: Annotated[tuple[str, ...], _ListAsTuple] = ()
    """A subset, by name, in the order of the labels; two make a binary problem; empty: all."""
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    """The share of each class's training images that is kept aside to choose by."""
    test: float = Field(default=0.2, gt=0.0, lt=1.0)
    """For images that come in one folder: the share of each class kept for testing."""
    augment: Augment = Augment()
    """Changes made to training images."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """What makes classes count the same in training: weights in the loss, or drawing images class by class."""
    whiten: int = Field(default=0, ge=0, le=2**31 - 1)
    """Principal components kept, each scaled to unit variance; 0 is plain pixels."""
    size: Annotated[tuple[_PositiveInt, ...], _ListAsTuple] = ()
    """For images: height and width that every picture is scaled to cover, then cropped to; empty: as they are."""
    skip_broken: bool = False
    """For images: leave out pictures that cannot be read, and list them, instead of refusing the first."""
    shape: Annotated[tuple[_PositiveInt, _PositiveInt, _PositiveInt], _ListAsTuple] = (3, 32, 32)
    """For synthetic: channels, height and width."""
    train_size: _PositiveInt = 10_000
    """For synthetic: the number of training images."""
    test_size: _PositiveInt = 1_000
    """For synthetic: the number of test images."""
    num_classes: int = Field(default=10, ge=2, le=1_000_000)
    """For synthetic: the number of classes."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Data:
        errors = []
        if self.source in {"cifar10", "cifar100", "images", "arrays"} and not self.path:
            errors.append(f"path|must be set for the source {self.source}|''")
        if not is_plain_text(self.path):
            errors.append(f"path|must be {PLAIN_TEXT_RULE}|{self.path!r}")
        if len(self.size) not in (0, 2):
            errors.append(f"size|must be a height and a width, or none|{list(self.size)}")
        if self.source == "synthetic" and self.train_size < self.num_classes:
            errors.append(f"train_size|must be at least num_classes ({self.num_classes})|{self.train_size}")
        if self.classes and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            errors.append(f"classes|must be at least two different names, or none|{list(self.classes)}")
        if not all(map(is_plain_text, self.classes)):
            errors.append(f"classes|must be {PLAIN_TEXT_RULE}|{list(self.classes)}")
        _raise_if_any(errors)
        return self


class Model(Section):
    """Which network."""

    kind: Literal["mlp", "logistic"] = "mlp"
    """An MLP, or logistic regression, which has no hidden layer and none of the settings below."""
    hidden: Annotated[tuple[_PositiveInt, ...], _ListAsTuple] = (128,)
    """The widths of the hidden layers, from the input on."""
    activation: Literal["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"] = "relu"
    """g of the hidden layers."""
    normalization: Literal["none", "batch", "layer"] = "none"
    """What normalises a hidden layer's z: each unit over the batch, or each image over the units."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The probability that a hidden unit's output is dropped in training."""
    residual: bool = False
    """Whether hidden layers as wide as the one before add its output to theirs."""
    initialization: Literal["auto", "he", "glorot", "lecun"] = "auto"
    """The first weights' variance, with n inputs and m outputs: by the activation, 2 / n, 2 / (n + m), or 1 / n."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Model:
        widths = self.hidden
        if self.kind == "mlp" and self.residual and not any(a == b for a, b in itertools.pairwise(widths)):
            raise ValueError(f"hidden|must have two neighbours of one width where residual is true|{list(widths)}")
        return self


class Optimizer(Section):
    """How the parameters follow the gradient."""

    name: Literal["sgd", "adam", "adamw", "muon", "lbfgs"] = "adamw"
    """SGD with momentum, Adam, AdamW, Muon (AdamW for what is no matrix) or L-BFGS."""
    lr: float = Field(default=1e-3, gt=0.0)
    """The learning rate that the schedule scales; lbfgs has no use for either."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """The decay of the weight matrices; biases and normalisations are spared."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For sgd and muon: the share of the last step's direction that is kept."""
    nesterov: bool = False
    """For sgd: look ahead along the momentum; needs momentum above 0."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For adam and adamw, and muon's biases: decay of the gradient's running mean."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Likewise: decay of the squared gradient's running mean."""
    clip_norm: float = Field(default=0.0, ge=0.0)
    """The largest norm of the whole gradient, beyond which it is shortened; 0: any."""
    schedule: Literal["constant", "cosine", "linear", "one_cycle", "steps"] = "constant"
    """How the learning rate changes over the steps."""
    milestones: Annotated[tuple[Annotated[float, Field(gt=0.0, le=2**31 - 1)], ...], _ListAsTuple] = ()
    """For the schedule steps: the epochs after which the learning rate is multiplied by gamma, rising."""
    gamma: float = Field(default=0.1, gt=0.0, lt=1.0)
    """For the schedule steps: the factor."""
    warmup_epochs: float = Field(default=0.0, ge=0.0, le=2**31 - 1)
    """Epochs over which the learning rate rises from 0 to where the schedule is."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Optimizer:
        errors = []
        if self.name == "sgd" and self.nesterov and self.momentum == 0.0:
            errors.append("momentum|must be greater than 0 where nesterov is true|0.0")
        if self.name == "lbfgs" and self.clip_norm:
            errors.append(f"clip_norm|must be 0 for lbfgs, whose line search needs the gradient|{self.clip_norm}")
        if self.schedule == "steps" and not self.milestones:
            errors.append("milestones|must be one or more for the schedule steps|[]")
        if any(later <= earlier for earlier, later in itertools.pairwise(self.milestones)):
            errors.append(f"milestones|must rise|{list(self.milestones)}")
        _raise_if_any(errors)
        return self


class Train(Section):
    """How long, in what portions, and for what."""

    epochs: _PositiveInt = 15
    """How often every training image is seen."""
    batch_size: Annotated[int | Literal["all"], BeforeValidator(_check_batch_size)] = 128
    """Images in a global batch, whatever the number of processes; "all" is the whole training set."""
    accumulate: _PositiveInt = 1
    """Parts that a batch goes through the network in, to save memory; the step is that of the whole batch."""
    loss: Literal["cross_entropy", "logistic", "hinge", "quadratic"] = "cross_entropy"
    """What is minimised: the cross-entropy, or for two classes a loss of the score, of which logistic is the same. What
    is reported of validation and test images is the cross-entropy always."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """ε: the target is (1 − ε) · one-hot + ε / C."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """The dtype of matrix products; parameters and sums stay float32."""
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The decay of a running average of the weights, which is validated and kept in their place; 0: the weights."""
    patience: int = Field(default=0, ge=0, le=2**31 - 1)
    """Epochs without a better validation accuracy after which training ends; the best weights count. 0: never."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Processor threads; 0 chooses by the size of the work, up to ``OMP_NUM_THREADS``."""
    save_seconds: float = Field(default=30.0, ge=0.0)
    """Seconds of training between checkpoints; 0 saves after every step."""
    diagnostics_every: int = Field(5, ge=0, le=2**31 - 1)
    """Epochs between diagnostics snapshots; there is one more before training and one at the end. 0 for none."""


class Config(Section):
    """An experiment."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """From which everything random is derived."""
    data: Data = Data()
    """Which images."""
    model: Model = Model()
    """Which network."""
    optimizer: Optimizer = Optimizer()
    """How the parameters follow the gradient."""
    train: Train = Train()
    """How long, in what portions, and for what."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Config:
        errors = []
        if self.optimizer.name == "lbfgs" and self.train.batch_size != "all":
            errors.append(f"train.batch_size|must be 'all' for lbfgs, which needs one function|{self.train.batch_size}")
        if self.train.patience and not self.data.validation:
            errors.append("data.validation|must be greater than 0 where train.patience is set|0.0")
        _raise_if_any(errors)
        return self

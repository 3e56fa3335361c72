"""Schema of a configuration: one typed tree with a default for every field."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from fcnet.config.selection import DEFAULT_SELECTION, Selection
from fcnet.config.values import PLAIN_TEXT_RULE, format_value, is_plain_text
from fcnet.runtime.hardware import MAX_THREADS


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check_batch_size(value: object) -> object:
    if value == "all" or (type(value) is int and 1 <= value < 2**31):
        return value
    raise PydanticCustomError("integer_or_all", 'must be an integer of at least 1, or "all"')


def _raise_if_any(errors: list[str]) -> None:
    """Raises the broken rules between fields, one ``field|rule|value`` a line, as the error that pydantic expects."""
    if errors:
        raise ValueError("\n".join(errors))


MAX_HIDDEN_LAYERS = 1000
_SOURCES_WITHOUT_VALIDATION = {"digits", "cifar10", "cifar100", "synthetic"}
ListAsTuple = BeforeValidator(_as_tuple)
_PositiveInt = Annotated[int, Field(ge=1, le=2**31 - 1)]


class Section(BaseModel):
    """Base of all sections: exact types, no unknown keys, no NaN or infinity, immutable."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Augment(Section):
    """Random changes to training images, applied in this order. By default there are none."""

    flip: bool = False
    """Mirror each image left to right with probability ½."""
    shift: int = Field(default=0, ge=0)
    """Largest translation along each axis, in pixels; vacated pixels are black."""
    rotate: float = Field(default=0.0, ge=0.0, le=180.0)
    """Largest rotation in either direction, in degrees; vacated pixels are black."""
    scale: float = Field(default=0.0, ge=0.0, le=10.0)
    """Zoom by a factor between 1 / (1 + scale) and 1 + scale, in one step with the rotation."""
    color_jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    """Multiply saturation, brightness and contrast, each by a factor between 1 − color_jitter and 1 + color_jitter."""
    cutout: int = Field(default=0, ge=0)
    """Side of a black square at a random position, in pixels; it may extend past the edge."""
    mixup: float = Field(default=0.0, ge=0.0, le=1000.0)
    """Average two images and their labels, with a weight drawn from Beta(mixup, mixup)."""
    cutmix: float = Field(default=0.0, ge=0.0, le=1000.0)
    """Paste a box of another image, of relative area drawn from Beta(cutmix, cutmix). With mixup set as well, one of
    the two is used, each with probability ½."""


class Data(Section):
    """Images and labels."""

    source: Literal["digits", "cifar10", "cifar100", "images", "arrays", "features", "synthetic"] = "digits"
    """Source of the images, or of vectors of features instead of images."""
    path: str = ""
    """For cifar10 and cifar100: folder of the downloaded archive. For images: folder, or tar or zip archive of one. For
    arrays: ``.npz`` file. For features: ``.npz`` or ``.safetensors`` file, or folder of ``.npy`` or Parquet files."""
    classes: Annotated[tuple[str, ...], ListAsTuple] = ()
    """Names of the classes to use, in the order of the labels; two make a binary problem. Empty: all classes."""
    validation: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Fraction of each class's training images held out for validation. Data with its own validation split, such as
    ``val/CLASS/…`` or ``x_validation``, uses that instead."""
    test: float = Field(default=0.2, gt=0.0, lt=1.0)
    """For images without a test split: fraction of each class held out for testing."""
    augment: Augment = Augment()
    """Random changes to training images."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """Give all classes equal weight in training: by class weights in the loss, or by sampling images class by class."""
    whiten: int = Field(default=0, ge=0, le=2**31 - 1)
    """Number of principal components to keep, each scaled to unit variance. 0: use the pixels."""
    standardize: bool = True
    """For features: subtract the mean of each feature and divide by its standard deviation, over the training split."""
    feature_column: str = "embedding"
    """For features in Parquet files: column of vectors."""
    label_column: str = "label"
    """For features in Parquet files: column of labels."""
    size: Annotated[tuple[_PositiveInt, ...], ListAsTuple] = ()
    """For images: height and width. Images are scaled to cover them, then cropped. Empty: keep the size."""
    skip_broken: bool = False
    """For images: skip and list files that cannot be read. Otherwise the first such file is an error."""
    shape: Annotated[tuple[_PositiveInt, _PositiveInt, _PositiveInt], ListAsTuple] = (3, 32, 32)
    """For synthetic: channels, height and width."""
    train_size: _PositiveInt = 10_000
    """For synthetic: number of training images."""
    test_size: _PositiveInt = 1_000
    """For synthetic: number of test images."""
    num_classes: int = Field(default=10, ge=2, le=1_000_000)
    """For synthetic: number of classes."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Data:
        errors = []
        if self.source in {"cifar10", "cifar100", "images", "arrays", "features"} and not self.path:
            errors.append(f"path|must be set for the source {self.source}|{format_value('')}")
        errors += [
            f"{name}|must be {PLAIN_TEXT_RULE}|{format_value(getattr(self, name))}"
            for name in ("path", "feature_column", "label_column")
            if not is_plain_text(getattr(self, name))
        ]
        errors += self._image_settings_of_features()
        if len(self.size) not in (0, 2):
            errors.append(f"size|must be [height, width] or empty|{format_value(self.size)}")
        if self.source == "synthetic" and self.train_size < self.num_classes:
            errors.append(f"train_size|must be at least num_classes ({self.num_classes})|{self.train_size}")
        if self.classes and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            errors.append(f"classes|must be empty or name two or more different classes|{format_value(self.classes)}")
        if not all(map(is_plain_text, self.classes)):
            errors.append(f"classes|must be {PLAIN_TEXT_RULE}|{format_value(self.classes)}")
        _raise_if_any(errors)
        return self

    def _image_settings_of_features(self) -> list[str]:
        """Returns the broken rule of each setting that would change images, where there are none."""
        if self.source != "features":
            return []
        settings = {**{f"augment.{name}": value for name, value in self.augment}, "whiten": self.whiten}
        rule = "for the source features, which has no images"
        return [
            f"{name}|must be {format_value(type(value)())} {rule}|{format_value(value)}"
            for name, value in settings.items()
            if value
        ]


class Model(Section):
    """Architecture of the network."""

    kind: Literal["mlp", "logistic"] = "mlp"
    """A multilayer perceptron, or logistic regression, which ignores the other settings of this section but
    init_from."""
    hidden: Annotated[tuple[_PositiveInt, ...], ListAsTuple, Field(max_length=MAX_HIDDEN_LAYERS)] = (128,)
    """Widths of the hidden layers, from input to output."""
    activation: Literal["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"] = "relu"
    """Activation of the hidden layers."""
    normalization: Literal["none", "batch", "layer"] = "none"
    """Normalization of the hidden layers before the activation: of each unit over the batch, or of each image over the
    units."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Probability that dropout sets the output of a hidden unit to zero in training."""
    residual: bool = False
    """Add the input of a hidden layer to its output if both have the same width."""
    initialization: Literal["auto", "he", "glorot", "lecun"] = "auto"
    """Variance of the initial weights, for n inputs and m outputs: he 2 / n, glorot 2 / (n + m), lecun 1 / n. auto
    chooses by the activation."""
    init_from: str = ""
    """Folder of a finished run whose weights the training starts from. The other settings of this section must fit it;
    the last layer starts from zeros if the classes differ. Empty: start from random weights."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Model:
        widths = self.hidden
        if not is_plain_text(self.init_from):
            raise ValueError(f"init_from|must be {PLAIN_TEXT_RULE}|{format_value(self.init_from)}")
        if self.kind == "mlp" and self.normalization == "layer" and 1 in widths:
            rule = "must have two or more units in each layer if normalization is layer: one unit is normalized to zero"
            raise ValueError(f"hidden|{rule}|{format_value(widths)}")
        if self.kind == "mlp" and self.residual and not any(a == b for a, b in itertools.pairwise(widths)):
            rule = "must have two adjacent layers of equal width if residual is true"
            raise ValueError(f"hidden|{rule}|{format_value(widths)}")
        return self


class Optimizer(Section):
    """Optimizer and learning-rate schedule."""

    name: Literal["sgd", "adam", "adamw", "muon", "lbfgs"] = "adamw"
    """SGD with momentum, Adam, AdamW, Muon (with AdamW for everything except weight matrices) or L-BFGS."""
    lr: float = Field(default=1e-3, gt=0.0)
    """Base learning rate, which the schedule scales. lbfgs ignores both."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Weight decay of the weight matrices. Biases and normalization parameters do not decay."""
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For sgd and muon: momentum."""
    nesterov: bool = False
    """For sgd: Nesterov momentum; needs a momentum above 0."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """For adam, adamw, and the AdamW part of muon: decay of the running mean of the gradient."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """For adam, adamw, and the AdamW part of muon: decay of the running mean of the squared gradient."""
    clip_norm: float = Field(default=0.0, ge=0.0)
    """Largest norm of the gradient of all parameters together; a longer gradient is scaled down. 0: no limit."""
    schedule: Literal["constant", "cosine", "linear", "one_cycle", "steps"] = "constant"
    """Course of the learning rate over the steps."""
    milestones: Annotated[tuple[Annotated[float, Field(gt=0.0, le=2**31 - 1)], ...], ListAsTuple] = ()
    """For the schedule steps: epochs after which the learning rate is multiplied by gamma, in increasing order."""
    gamma: float = Field(default=0.1, gt=0.0, lt=1.0)
    """For the schedule steps: factor of the learning rate."""
    warmup_epochs: float = Field(default=0.0, ge=0.0, le=2**31 - 1)
    """Epochs over which the learning rate rises linearly from 0 to the value of the schedule."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Optimizer:
        errors = []
        if self.name == "sgd" and self.nesterov and self.momentum == 0.0:
            errors.append("momentum|must be greater than 0 if nesterov is true|0.0")
        if self.name == "lbfgs" and self.clip_norm:
            errors.append(f"clip_norm|must be 0 for lbfgs, because its line search needs the gradient|{self.clip_norm}")
        if self.schedule == "steps" and not self.milestones:
            errors.append("milestones|must have one or more values for the schedule steps|[]")
        if any(later <= earlier for earlier, later in itertools.pairwise(self.milestones)):
            errors.append(f"milestones|must increase|{format_value(self.milestones)}")
        _raise_if_any(errors)
        return self


class Train(Section):
    """Length of training, batches, loss and bookkeeping."""

    epochs: _PositiveInt = 15
    """Passes over the training images."""
    batch_size: Annotated[int | Literal["all"], BeforeValidator(_check_batch_size)] = 128
    """Images in a global batch, whatever the number of processes; "all" is the whole training set."""
    accumulate: _PositiveInt = 1
    """Number of slices that a batch is split into to save memory. Their gradients add up to that of the batch."""
    loss: Literal["cross_entropy", "logistic", "hinge", "quadratic"] = "cross_entropy"
    """Loss to minimise: the cross-entropy, or for two classes a loss of the score; logistic equals the cross-entropy.
    Validation and test losses are always the cross-entropy."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Label smoothing ε: the target is (1 − ε) · one-hot + ε / C."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of matrix products. Parameters and sums stay float32. tf32 rounds the factors of products to 10 bits on
    an NVIDIA GPU; elsewhere it is float32."""
    ema_decay: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Decay of an exponential moving average of the weights, which replaces them in validation and in the final model.
    0: no average."""
    patience: int = Field(default=0, ge=0, le=2**31 - 1)
    """Epochs without a better validation figure before training stops; the best weights are kept. 0: never stop, and
    keep the last weights."""
    select: Selection = DEFAULT_SELECTION
    """Validation figure that decides which epoch is the best, when training stops early, and how a sweep ranks its
    trials. A loss is better when it is lower, the others when they are higher; of equal epochs the first is best."""
    calibrate: bool = False
    """Divide the logits by the temperature that minimises the cross-entropy of the validation images, once training has
    ended. Predicted classes stay; probabilities become as sure as they are right."""
    threads: int = Field(default=0, ge=0, le=MAX_THREADS)
    """CPU threads. 0: choose by the size of the model and the batch, up to ``OMP_NUM_THREADS``."""
    save_seconds: float = Field(default=30.0, ge=0.0)
    """Seconds of training between checkpoints. 0: save after every step."""
    diagnostics_every: int = Field(default=10, ge=0, le=2**31 - 1)
    """Epochs between snapshots of activations, weights and gradients. One more is taken before the first epoch and one
    after the last. On a GPU the interval grows where snapshots would take more than 2% of the time. 0: no snapshots."""


class Config(Section):
    """Everything that defines a training run."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of all random numbers."""
    data: Data = Data()
    """Images and labels."""
    model: Model = Model()
    """Architecture of the network."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and learning-rate schedule."""
    train: Train = Train()
    """Length of training, batches, loss and bookkeeping."""

    @model_validator(mode="after")
    def _check_consistency(self) -> Config:
        errors = []
        if self.optimizer.name == "lbfgs" and self.train.batch_size != "all":
            rule = 'must be "all" for lbfgs, because its line search needs a fixed loss'
            errors.append(f"train.batch_size|{rule}|{self.train.batch_size}")
        if self.train.calibrate and self.train.loss in {"hinge", "quadratic"}:
            rule = f"must be false for the loss {self.train.loss}, whose scores are no log-odds"
            errors.append(f"train.calibrate|{rule}|true")
        # Other sources may have a validation split of their own, which `fcnet.experiment.build` knows.
        if not self.data.validation and self.data.source in _SOURCES_WITHOUT_VALIDATION:
            errors += [f"data.validation|must be greater than 0 if {key}|0.0" for key in validation_needs(self)]
        _raise_if_any(errors)
        return self


def validation_needs(config: Config) -> list[str]:
    """Returns each setting that needs validation images, as the condition of a rule.

    Example:
        >>> validation_needs(Config(train=Train(patience=3)))
        ['train.patience is set']
    """
    train = config.train
    needs = {
        "train.patience is set": train.patience > 0,
        f"train.select is {train.select}": train.select != DEFAULT_SELECTION,
        "train.calibrate is true": train.calibrate,
    }
    return [need for need, holds in needs.items() if holds]

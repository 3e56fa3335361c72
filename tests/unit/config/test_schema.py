"""Rules of fcnet.config.schema and fcnet.config.toml."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fcnet.config.schema import Augment, Config, Data, Model, Optimizer, Train
from fcnet.config.toml import check_agreement, dump_config, load_config
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    Refuse = Callable[..., list[str]]

# {file} stands for the configuration file.
MISTAKES = {
    # an unknown key
    "[data]\nsorce = 'digits'": "data.sorce ({file}:2) is not a known key; the nearest is data.source",
    "[dta]\nsource = 'digits'": "dta ({file}:1) is not a known key; the nearest is data",
    "dta.source = 'digits'": "dta ({file}:1) is not a known key; the nearest is data",
    "[train]\nlr = 0.1": "train.lr ({file}:2) is not a known key; the nearest is optimizer.lr",
    "batch_size = 3": "batch_size ({file}:1) is not a known key; the nearest is train.batch_size",
    "x = 3": "x ({file}:1) is not a known key; known are seed, data, model, optimizer, train",
    "[data.augment]\nzoom = 3": "data.augment.zoom ({file}:2) is not a known key; known are flip, shift, "
    "rotate, scale, color_jitter, cutout, mixup, cutmix",
    "[data]\naugment = { flop = true }": (
        "data.augment.flop ({file}:2) is not a known key; the nearest is data.augment.flip"
    ),
    # a value of another type: true is no number, 1.0 is not whole, 1 is not true
    "seed = true": "seed ({file}:1) must be a whole number, got True",
    "seed = 1.0": "seed ({file}:1) must be a whole number, got 1.0",
    "seed = '1'": "seed ({file}:1) must be a whole number, got '1'",
    "[data]\nwhiten = false": "data.whiten ({file}:2) must be a whole number, got False",
    "[optimizer]\nlr = true": "optimizer.lr ({file}:2) must be a number, got True",
    "[optimizer]\nlr = '0.1'": "optimizer.lr ({file}:2) must be a number, got '0.1'",
    "[data.augment]\nrotate = 181": "data.augment.rotate ({file}:2) must be at most 180.0, got 181",
    "[data.augment]\nscale = -0.1": "data.augment.scale ({file}:2) must be at least 0.0, got -0.1",
    "[data.augment]\ncolor_jitter = 1.1": "data.augment.color_jitter ({file}:2) must be at most 1.0, got 1.1",
    "[data.augment]\ncutout = 2.0": "data.augment.cutout ({file}:2) must be a whole number, got 2.0",
    "[data.augment]\nmixup = -1.0": "data.augment.mixup ({file}:2) must be at least 0.0, got -1.0",
    "[data.augment]\ncutmix = 1001": "data.augment.cutmix ({file}:2) must be at most 1000.0, got 1001",
    "[data]\nbalance = true": "data.balance ({file}:2) must be one of 'none', 'weights', 'sampling', got True",
    "[data.augment]\nflip = 1": "data.augment.flip ({file}:2) must be true or false, got 1",
    "[data]\npath = 3": "data.path ({file}:2) must be a string, got 3",
    "[data]\nclasses = 'cat'": "data.classes ({file}:2) must be a list, got 'cat'",
    "[data]\nclasses = ['cat', 1]": "data.classes.1 ({file}:2) must be a string, got 1",
    "[model]\nhidden = 64": "model.hidden ({file}:2) must be a list, got 64",
    "[model]\nhidden = [64, true]": "model.hidden.1 ({file}:2) must be a whole number, got True",
    "model = 3": "model ({file}:1) must be a section, got 3",
    "[[model]]\nkind = 'mlp'": "model ({file}:1) must be a section, got [{{'kind': 'mlp'}}]",
    # a value out of its range
    "seed = -1": "seed ({file}:1) must be at least 0, got -1",
    "seed = 9223372036854775808": "seed ({file}:1) must be less than 9223372036854775808, got 9223372036854775808",
    "[optimizer]\nlr = 0.0": "optimizer.lr ({file}:2) must be greater than 0.0, got 0.0",
    "[optimizer]\nlr = nan": "optimizer.lr ({file}:2) must be finite, got nan",
    "[optimizer]\nlr = inf": "optimizer.lr ({file}:2) must be finite, got inf",
    "[optimizer]\nlr = -1e999": "optimizer.lr ({file}:2) must be finite, got -inf",
    "[data]\nvalidation = 1.0": "data.validation ({file}:2) must be less than 1.0, got 1.0",
    "[data]\nwhiten = -1": "data.whiten ({file}:2) must be at least 0, got -1",
    "[model]\nhidden = [\n  64,\n  0,\n]": "model.hidden.1 ({file}:2) must be at least 1, got 0",
    "[data]\nshape = [3, 32]": "data.shape.2 ({file}:2) must have one value more, got (3, 32)",
    "[data]\nshape = [3, 32, 32, 1]": "data.shape ({file}:2) must have no more than 3 values, got (3, 32, 32, 1)",
    "[optimizer]\nname = 'lion'": (
        "optimizer.name ({file}:2) must be one of 'sgd', 'adam', 'adamw', 'muon', 'lbfgs', got 'lion'"
    ),
    "[train]\nbatch_size = 'whole'": (
        "train.batch_size ({file}:2) must be a whole number of at least 1, or 'all', got 'whole'"
    ),
    "[train]\nbatch_size = 1.5": "train.batch_size ({file}:2) must be a whole number of at least 1, or 'all', got 1.5",
    "[optimizer]\nmilestones = [3, -1.0]": "optimizer.milestones.1 ({file}:2) must be greater than 0.0, got -1.0",
    # values that do not go together
    "[data]\nsource = 'images'": "data.path ({file}:1) must be set for the source images, got ''",
    "[data]\nclasses = ['a']": "data.classes ({file}:2) must be at least two different names, or none, got ['a']",
    "[data]\nclasses = ['|', '|']": (
        "data.classes ({file}:2) must be at least two different names, or none, got ['|', '|']"
    ),
    "[model]\nresidual = true": (
        "model.hidden ({file}:1) must have two neighbours of one width where residual is true, got [128]"
    ),
    "[optimizer]\nname = 'sgd'\nnesterov = true\nmomentum = 0.0": (
        "optimizer.momentum ({file}:4) must be greater than 0 where nesterov is true, got 0.0"
    ),
    "[optimizer]\nschedule = 'steps'": (
        "optimizer.milestones ({file}:1) must be one or more for the schedule steps, got []"
    ),
    "[optimizer]\nmilestones = [3, 2.5]": "optimizer.milestones ({file}:2) must rise, got [3.0, 2.5]",
    "[optimizer]\nname = 'lbfgs'\nclip_norm = 1\n[train]\nbatch_size = 'all'": (
        "optimizer.clip_norm ({file}:3) must be 0 for lbfgs, whose line search needs the gradient, got 1.0"
    ),
    "[optimizer]\nname = 'lbfgs'\n[train]\nbatch_size = 128": (
        "train.batch_size ({file}:4) must be 'all' for lbfgs, which needs one function, got 128"
    ),
    "[data]\nvalidation = 0.0\n[train]\npatience = 3": (
        "data.validation ({file}:2) must be greater than 0 where train.patience is set, got 0.0"
    ),
    "[data]\npath = '~nobody-of-this-name/x'": (
        "data.path ({file}:2) must be in a home that is known, got '~nobody-of-this-name/x'"
    ),
    "data = { path = '~nobody-of-this-name/x' }": (
        "data.path ({file}:1) must be in a home that is known, got '~nobody-of-this-name/x'"
    ),
}

WRONG_OVERRIDES = {
    "seed": "--set must be section.key=value, got seed",
    "=3": "--set must be section.key=value, got =3",
    "data..path=x": "--set must be section.key=value, got data..path=x",
    "seed=1\nseed=2": r"--set must be UTF-8, in one line, without a NUL, got 'seed=1\nseed=2'",
    "data.path=": "--set data.path=: the value must be TOML, got ''",
    "data.path='x": """--set data.path='x: the value must be TOML, got "'x\"""",
    "model.hidden=[3": "--set model.hidden=[3: the value must be TOML, got '[3'",
    "model.hidden=3, 4": "--set model.hidden=3, 4: the value must be TOML, got '3, 4'",
    "train.epochs=0": "train.epochs (--set train.epochs=0) must be at least 1, got 0",
    "train.epochs=many": "train.epochs (--set train.epochs=many) must be a whole number, got 'many'",
    "trian.epochs=1": "trian (--set trian.epochs=1) is not a known key; the nearest is train",
    "train.epoch=1": "train.epoch (--set train.epoch=1) is not a known key; the nearest is train.epochs",
    "seed.x=1": "seed (--set seed.x=1) must be a whole number, got {'x': 1}",
    " data = { source = 3 }": (
        "data.source (--set  data = { source = 3 }) "
        "must be one of 'digits', 'cifar10', 'cifar100', 'images', 'arrays', 'synthetic', got 3"
    ),
}

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))
SHARES = st.floats(0.0, 1.0, exclude_max=True)
CONFIGS = st.builds(
    Config,
    seed=st.integers(0, 2**63 - 1),
    data=st.builds(
        Data,
        source=st.sampled_from(["digits", "cifar10", "cifar100", "images", "synthetic"]),
        path=TEXTS.map(lambda text: f"/{text}"),
        classes=st.just(()) | st.lists(TEXTS, min_size=2, max_size=4, unique=True).map(tuple),
        validation=SHARES,
        augment=st.builds(
            Augment,
            flip=st.booleans(),
            shift=st.integers(0, 9),
            rotate=st.floats(0.0, 180.0),
            scale=st.floats(0.0, 10.0),
            mixup=st.floats(0.0, 1000.0),
        ),
        balance=st.sampled_from(["none", "weights", "sampling"]),
        shape=st.tuples(*[st.integers(1, 99)] * 3),
        num_classes=st.integers(2, 99),
    ),
    model=st.builds(
        Model,
        kind=st.sampled_from(["mlp", "logistic"]),
        hidden=st.lists(st.integers(1, 999), max_size=4).map(tuple),
        activation=st.sampled_from(["identity", "sigmoid", "relu", "leaky_relu", "elu", "gelu"]),
        normalization=st.sampled_from(["none", "batch", "layer"]),
        dropout=SHARES,
        initialization=st.sampled_from(["auto", "he", "glorot", "lecun"]),
    ),
    optimizer=st.builds(
        Optimizer,
        name=st.sampled_from(["sgd", "adam", "adamw", "muon"]),
        lr=st.floats(0.0, exclude_min=True, allow_infinity=False),
        schedule=st.sampled_from(["constant", "cosine", "linear", "one_cycle", "steps"]),
        milestones=st.lists(st.integers(1, 99).map(float), min_size=1, max_size=4, unique=True).map(sorted).map(tuple),
        gamma=st.floats(0.01, 0.99),
    ),
    train=st.builds(
        Train,
        epochs=st.integers(1, 999),
        batch_size=st.integers(1, 9999) | st.just("all"),
        accumulate=st.integers(1, 9),
        label_smoothing=SHARES,
        ema_decay=SHARES,
        threads=st.integers(0, 99),
    ),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


@pytest.fixture
def refuse(file: Path) -> Refuse:
    """Loads a configuration that must be refused; the lines of the refusal."""

    def lines(text: str, *overrides: str) -> list[str]:
        file.write_text(text)
        with pytest.raises(UserError) as error:
            load_config(file, overrides)
        return str(error.value).split("\n")

    return lines


@pytest.fixture
def load(file: Path) -> Callable[..., Config]:
    def loaded(text: str, *overrides: str) -> Config:
        file.write_text(text)
        return load_config(file, overrides)

    return loaded


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line_with_key_place_rule_value_and_nearest_key(text: str, refuse: Refuse, file: Path) -> None:
    assert refuse(text) == [MISTAKES[text].format(file=file)]


@pytest.mark.parametrize("override", WRONG_OVERRIDES)
def test_a_mistake_in_a_setting_names_the_setting(override: str, refuse: Refuse) -> None:
    assert refuse("", override) == [WRONG_OVERRIDES[override]]


def test_all_mistakes_are_reported_at_once(refuse: Refuse, file: Path) -> None:
    text = "sed = 1\n[data]\nsource = 'cifar'\n[model]\nhidden = [0, 0]\n[train]\nepochs = 0"
    assert sorted(refuse(text, "optimizer.lr=-1", "seed", "data.path='")) == sorted(
        [
            "--set must be section.key=value, got seed",
            """--set data.path=': the value must be TOML, got "'\"""",
            (
                f"data.source ({file}:3) must be one of 'digits', 'cifar10', 'cifar100', 'images', 'arrays', "
                "'synthetic', got 'cifar'"
            ),
            f"model.hidden.0 ({file}:5) must be at least 1, got 0",
            f"model.hidden.1 ({file}:5) must be at least 1, got 0",
            "optimizer.lr (--set optimizer.lr=-1) must be greater than 0.0, got -1",
            f"sed ({file}:1) is not a known key; the nearest is seed",
            f"train.epochs ({file}:7) must be at least 1, got 0",
        ]
    )


@pytest.mark.parametrize(
    "text",
    [
        "\n\n[train]\n# epochs = 1\nepochs = 0",
        "\n\n[ train ]\n\n  epochs=0 # [data]",
        '\n\n["train"]\n\n"epochs" = 0',
        "\n\n['train']\n\n'epochs' = 0",
        "seed = 1\n\n\n\ntrain.epochs = 0",
        "seed = 1\n\n\n\n\"train\" . 'epochs' = 0",
        "seed = 1\n\n\n\ntrain = { batch_size = 3, epochs = 0 }",
        "[data]\r\n\r\n[train]\r\n\r\nepochs = 0",
        "[data]\n# two lines\u2028or one\n\n[train]\nepochs = 0",
    ],
)
def test_the_line_is_that_of_the_key_however_it_is_written(text: str, refuse: Refuse, file: Path) -> None:
    assert refuse(text) == [f"train.epochs ({file}:5) must be at least 1, got 0"]


def test_a_whole_number_is_a_number(load: Callable[..., Config]) -> None:
    config = load("[optimizer]\nlr = 1\n[data]\nvalidation = 0")
    assert (config.optimizer.lr, config.data.validation) == (1.0, 0.0)
    assert isinstance(config.optimizer.lr, float)


def test_nothing_written_is_all_defaults(load: Callable[..., Config]) -> None:
    assert load("") == Config()


def test_a_setting_replaces_a_value_whole(load: Callable[..., Config]) -> None:
    text = "seed = 1\n[data]\naugment = { flip = true, shift = 4 }\n[model]\nhidden = [3, 4]"
    assert load(text, "data.augment={}").data.augment == Augment()
    assert load(text, "data.augment={ shift = 1 }").data.augment == Augment(shift=1)
    assert load(text, "data.augment.shift=1").data.augment == Augment(flip=True, shift=1)
    assert load(text, "model.hidden=[5]").model.hidden == (5,)
    assert load(text, "train={ epochs = 2 }", "train.batch_size = 7").train == Train(epochs=2, batch_size=7)


def test_a_setting_that_replaces_a_mistake_mends_it(load: Callable[..., Config], refuse: Refuse) -> None:
    assert load("seed = true", "seed=3").seed == 3
    assert load("[data.augment]\nflip = 3", "data.augment={}") == Config()
    assert load("", "seed=-3", "seed=4").seed == 4
    assert refuse("[data.augment]\nflip = 3", "data.augment={ flip = 4 }") == [
        "data.augment.flip (--set data.augment={ flip = 4 }) must be true or false, got 4"
    ]


def test_a_setting_inside_what_is_no_section_is_refused(refuse: Refuse, file: Path) -> None:
    assert refuse("model = 3", "model.kind=mlp") == [
        "--set model.kind=mlp: model must be a section, got 3",
        f"model ({file}:1) must be a section, got 3",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("cat", "cat"),
        ("/a/path with spaces", "/a/path with spaces"),
        ("C:\\pictures", "C:\\pictures"),
        ("'cat'", "cat"),
        ('"c\\u0061t"', "cat"),
        ("café", "café"),
        ("'a=b'", "a=b"),
    ],
)
def test_a_bare_word_is_a_string(text: str, value: str, load: Callable[..., Config]) -> None:
    assert load("", f"data.path={text}").data.path == str(Path(value).absolute())


def test_a_setting_of_a_known_key_that_is_not_used_is_accepted(load: Callable[..., Config]) -> None:
    config = load("[optimizer]\nname = 'adamw'\nmomentum = 0.5\n[model]\nkind = 'logistic'\nresidual = true")
    assert config.optimizer.momentum == 0.5


def test_the_path_of_the_data_is_made_absolute(
    load: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load("data.path = 'images'").data.path == str(tmp_path / "images")
    assert load("data.path = '/images'").data.path == "/images"
    assert load("data.path = '~/images'").data.path == "/home/somebody/images"
    assert load("data.path = ''").data.path == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = '\xff'", "{file} must be UTF-8 text"),
        (b"seed = ", "{file} must be TOML: Invalid value (at end of document)"),
        (b"seed = 1\n[data\n", "{file} must be TOML: Expected ']' at the end of a table declaration (at line 2, col"),
        (b"seed = 1\nseed = 2", "{file} must be TOML: Cannot overwrite a value (at end of document)"),
        (None, "--config must name a file that can be read, got {file}: No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(content: bytes | None, message: str, file: Path) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config(file)
    assert str(error.value).startswith(message.format(file=file))
    assert "\n" not in str(error.value)


def test_a_folder_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_config(tmp_path)
    assert str(error.value) == f"--config must name a file that can be read, got {tmp_path}: Is a directory"


@given(CONFIGS)
def test_a_written_configuration_is_read_back_the_same(config: Config) -> None:
    absolute = str(Path(config.data.path).absolute())
    expected = config.model_copy(update={"data": config.data.model_copy(update={"path": absolute})})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_bytes(dump_config(config).encode())
        assert load_config(file) == expected


def test_a_written_configuration_names_every_key() -> None:
    text = dump_config(Config())
    for section in (Config, Data, Augment, Model, Optimizer, Train):
        for name in section.model_fields:
            assert f"\n{name} = " in f"\n{text}" or f"{name}]\n" in text, name


def test_a_configuration_that_agrees_is_let_pass(file: Path) -> None:
    check_agreement(Config(), Config(), file, file)


def test_every_key_that_disagrees_is_named() -> None:
    given = Config(seed=3, data=Data(augment=Augment(shift=2)), model=Model(hidden=(5,)))
    stored = Config(data=Data(augment=Augment(flip=True)))
    with pytest.raises(UserError) as error:
        check_agreement(given, stored, Path("new.toml"), Path("run/config.toml"))
    assert str(error.value).split("\n") == [
        "seed (new.toml) must be 0 as in run/config.toml, got 3",
        "data.augment.flip (new.toml) must be True as in run/config.toml, got False",
        "data.augment.shift (new.toml) must be 0 as in run/config.toml, got 2",
        "model.hidden (new.toml) must be (128,) as in run/config.toml, got (5,)",
    ]


@pytest.mark.parametrize("section", [Config(), Data(), Augment(), Model(), Optimizer(), Train()])
def test_a_configuration_cannot_be_changed(section: Any) -> None:
    for name, value in section:
        with pytest.raises(ValidationError, match="Instance is frozen"):
            setattr(section, name, value)

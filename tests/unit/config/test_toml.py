"""Tests of fcnet.config.toml."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcnet.config.schema import Augment, Config, Data, Model, Optimizer, Train
from fcnet.config.toml import check_agreement, dump_config, flatten_config, load_config, parse_toml
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    ReadErrors = Callable[..., list[str]]
    LoadText = Callable[..., Config]

# Error of each faulty configuration; {file} stands for its file.
UNKNOWN_KEYS = {
    "[data]\nsorce = 'digits'": "data.sorce ({file}:2) is not a known key; the nearest is data.source",
    "[dta]\nsource = 'digits'": "dta ({file}:1) is not a known key; the nearest is data",
    "dta.source = 'digits'": "dta ({file}:1) is not a known key; the nearest is data",
    "[train]\nlr = 0.1": "train.lr ({file}:2) is not a known key; the nearest is optimizer.lr",
    "batch_size = 3": "batch_size ({file}:1) is not a known key; the nearest is train.batch_size",
    "x = 3": "x ({file}:1) is not a known key; known keys are seed, data, model, optimizer, train",
    "[data.augment]\nzoom = 3": "data.augment.zoom ({file}:2) is not a known key; known keys are flip, shift, "
    "rotate, scale, color_jitter, cutout, mixup, cutmix",
    "[data]\naugment = { flop = true }": (
        "data.augment.flop ({file}:2) is not a known key; the nearest is data.augment.flip"
    ),
}

UNKNOWN_HOMES = {
    "[data]\npath = '~nobody-of-this-name/x'": (
        'data.path ({file}:2) must begin with the home folder of a known user, got "~nobody-of-this-name/x"'
    ),
    "data = { path = '~nobody-of-this-name/x' }": (
        'data.path ({file}:1) must begin with the home folder of a known user, got "~nobody-of-this-name/x"'
    ),
}

WRONG_OVERRIDES = {
    "seed": "--set must be section.key=value, got seed",
    "=3": "--set must be section.key=value, got =3",
    "data..path=x": "--set must be section.key=value, got data..path=x",
    "seed=1\nseed=2": r'--set must be one line of UTF-8 text without NUL characters, got "seed=1\nseed=2"',
    "data.path=": "--set data.path=: the value must be TOML, got nothing",
    "data.path='x": """--set data.path='x: the value must be TOML, got 'x""",
    "model.hidden=[3": "--set model.hidden=[3: the value must be TOML, got [3; write --set 'model.hidden=[3]'",
    "model.hidden=3, 4": "--set model.hidden=3, 4: the value must be TOML, got 3, 4; write --set 'model.hidden=[3, 4]'",
    "train.epochs=0": "train.epochs (--set train.epochs=0) must be at least 1, got 0",
    "train.epochs=many": 'train.epochs (--set train.epochs=many) must be an integer, got "many"',
    "trian.epochs=1": "trian (--set trian.epochs=1) is not a known key; the nearest is train",
    "train.epoch=1": "train.epoch (--set train.epoch=1) is not a known key; the nearest is train.epochs",
    "seed.x=1": "seed (--set seed.x=1) must be an integer, got {x = 1}",
    " data = { source = 3 }": (
        "data.source (--set  data = { source = 3 }) "
        'must be one of "digits", "cifar10", "cifar100", "images", "arrays", "features", "synthetic", got 3'
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
        hidden=st.lists(st.integers(2, 999), max_size=4).map(tuple),
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


@pytest.mark.parametrize("text", UNKNOWN_KEYS | UNKNOWN_HOMES)
def test_an_error_names_the_key_and_its_place(text: str, read_errors: ReadErrors, file: Path) -> None:
    assert read_errors(text) == [(UNKNOWN_KEYS | UNKNOWN_HOMES)[text].format(file=file)]


@pytest.mark.parametrize("override", WRONG_OVERRIDES)
def test_an_error_in_an_override_names_the_override(override: str, read_errors: ReadErrors) -> None:
    assert read_errors("", override) == [WRONG_OVERRIDES[override]]


def test_all_errors_are_reported_together(read_errors: ReadErrors, file: Path) -> None:
    text = "sed = 1\n[data]\nsource = 'cifar'\n[model]\nhidden = [0, 0]\n[train]\nepochs = 0"
    assert sorted(read_errors(text, "optimizer.lr=-1", "seed", "data.path='")) == sorted(
        [
            "--set must be section.key=value, got seed",
            "--set data.path=': the value must be TOML, got '",
            (
                f'data.source ({file}:3) must be one of "digits", "cifar10", "cifar100", "images", "arrays", '
                '"features", "synthetic", got "cifar"; the nearest is "cifar10"'
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
def test_the_line_of_a_key_is_found_in_every_spelling(text: str, read_errors: ReadErrors, file: Path) -> None:
    assert read_errors(text) == [f"train.epochs ({file}:5) must be at least 1, got 0"]


def test_an_override_replaces_the_whole_value(load_text: LoadText) -> None:
    text = "seed = 1\n[data]\naugment = { flip = true, shift = 4 }\n[model]\nhidden = [3, 4]"
    assert load_text(text, "data.augment={}").data.augment == Augment()
    assert load_text(text, "data.augment={ shift = 1 }").data.augment == Augment(shift=1)
    assert load_text(text, "data.augment.shift=1").data.augment == Augment(flip=True, shift=1)
    assert load_text(text, "model.hidden=[5]").model.hidden == (5,)
    assert load_text(text, "train={ epochs = 2 }", "train.batch_size = 7").train == Train(epochs=2, batch_size=7)


def test_an_override_of_a_wrong_value_removes_its_error(load_text: LoadText, read_errors: ReadErrors) -> None:
    assert load_text("seed = true", "seed=3").seed == 3
    assert load_text("[data.augment]\nflip = 3", "data.augment={}") == Config()
    assert load_text("", "seed=-3", "seed=4").seed == 4
    assert read_errors("[data.augment]\nflip = 3", "data.augment={ flip = 4 }") == [
        "data.augment.flip (--set data.augment={ flip = 4 }) must be true or false, got 4"
    ]


def test_an_override_inside_a_plain_value_is_an_error(read_errors: ReadErrors, file: Path) -> None:
    assert read_errors("model = 3", "model.kind=mlp") == [
        "--set model.kind=mlp: model must be a section, got 3",
        f"model ({file}:1) must be a section, got 3",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("cat", "cat"),
        ("/a/path with spaces", "/a/path with spaces"),
        ("C:\\images", "C:\\images"),
        ("'cat'", "cat"),
        ('"c\\u0061t"', "cat"),
        ("café", "café"),
        ("'a=b'", "a=b"),
    ],
)
def test_a_bare_word_is_a_string(text: str, value: str, load_text: LoadText) -> None:
    assert load_text("", f"data.path={text}").data.path == str(Path(value).absolute())


def test_the_path_of_the_data_is_made_absolute(
    load_text: LoadText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load_text("data.path = 'images'").data.path == str(tmp_path / "images")
    assert load_text("data.path = '/images'").data.path == "/images"
    assert load_text("data.path = '~/images'").data.path == "/home/somebody/images"
    assert load_text("data.path = ''").data.path == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = '\xff'", "{file} must be UTF-8 text, got another encoding; save it as UTF-8"),
        ("seed = 1".encode("utf-16"), "{file} must be UTF-8 text, got UTF-16; save it as UTF-8"),
        (b"seed = ", "{file} must be TOML: Invalid value (at end of document)"),
        (b"seed = 1\n[data\n", "{file} must be TOML: Expected ']' at the end of a table declaration (at line 2, col"),
        (b"seed = 1\nseed = 2", "{file} must be TOML: Cannot overwrite a value (at end of document)"),
        (None, "--config must be a file that can be read, got {file}: No such file or directory"),
    ],
)
def test_an_unreadable_file_is_named_in_one_line(content: bytes | None, message: str, file: Path) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config(file)
    assert str(error.value).startswith(message.format(file=file))
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_bytes(b"\xef\xbb\xbfseed = 3\r\n[train]\r\nepochs = 4\r\n")
    config = load_config(file)
    assert (config.seed, config.train.epochs) == (3, 4)
    file.write_bytes(b"\xef\xbb\xbfseed = 3\r\n[train]\r\nepochs = 0\r\n")
    with pytest.raises(UserError, match=rf"^train\.epochs \({file}:3\) must be at least 1, got 0$"):
        load_config(file)


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_config(tmp_path)
    assert str(error.value) == f"--config must be a file that can be read, got {tmp_path}: Is a directory"


@given(CONFIGS)
def test_a_configuration_survives_writing_and_reading(config: Config) -> None:
    path, init_from = (
        str(Path(each).absolute()) if each else "" for each in (config.data.path, config.model.init_from)
    )
    data = config.data.model_copy(update={"path": path})
    expected = config.model_copy(
        update={"data": data, "model": config.model.model_copy(update={"init_from": init_from})}
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_bytes(dump_config(config).encode())
        assert load_config(file) == expected


def test_a_written_configuration_has_every_key() -> None:
    text = dump_config(Config())
    for section in (Config, Data, Augment, Model, Optimizer, Train):
        for name in section.model_fields:
            assert f"\n{name} = " in f"\n{text}" or f"{name}]\n" in text, name


def test_equal_configurations_agree(file: Path) -> None:
    check_agreement(Config(), Config(), file, file)


def test_every_differing_key_is_named() -> None:
    given = Config(seed=3, data=Data(augment=Augment(shift=2)), model=Model(hidden=(5,)))
    stored = Config(data=Data(augment=Augment(flip=True)))
    with pytest.raises(UserError) as error:
        check_agreement(given, stored, Path("new.toml"), Path("run/config.toml"))
    assert str(error.value).split("\n") == [
        "seed (new.toml) must be 0 as in run/config.toml, got 3",
        "data.augment.flip (new.toml) must be true as in run/config.toml, got false",
        "data.augment.shift (new.toml) must be 0 as in run/config.toml, got 2",
        "model.hidden (new.toml) must be [128] as in run/config.toml, got [5]",
    ]


def test_a_configuration_is_flattened_to_dotted_keys() -> None:
    flat = dict(flatten_config(Config(train=Train(epochs=3)).model_dump()))
    assert flat["train.epochs"] == 3
    assert flat["data.augment.flip"] is False
    assert not any(isinstance(value, dict) for value in flat.values())


def test_toml_that_is_nested_too_deeply_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"^nested too deeply$"):
        parse_toml(f"value = {'[' * 5000}{']' * 5000}")


def test_a_configuration_may_come_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    threading.Thread(target=(tmp_path / "pipe.toml").write_text, args=("seed = 5\n",), daemon=True).start()
    assert load_config(tmp_path / "pipe.toml").seed == 5


def test_a_configuration_that_is_no_small_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(10**12)
    for path, message in (
        (Path("/dev/zero"), "/dev/zero must have at most 262,144 bytes, got more"),
        (tmp_path, f"--config must be a file that can be read, got {tmp_path}: Is a directory"),
        (tmp_path / "large.toml", f"{tmp_path}/large.toml must have at most 262,144 bytes, got more"),
        (Path("a\0b"), '--config must be a path without NUL characters, got "a\\u0000b"'),
        (Path("a" * 5000), f"--config must be a file that can be read, got {'a' * 5000}: File name too long"),
    ):
        with pytest.raises(UserError) as error:
            load_config(path)
        assert str(error.value) == message


def test_many_errors_are_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("".join(f"a{number} = 1\n" for number in range(20_000)))
    with pytest.raises(UserError) as error:
        load_config(file)
    lines = str(error.value).split("\n")
    assert len(lines) == 21
    assert lines[-1] == "and 19,980 more errors"


def test_an_integer_with_too_many_digits_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("seed = " + "9" * 5000)
    with pytest.raises(UserError, match=r"x.toml must be TOML: an integer with too many digits$"):
        load_config(tmp_path / "x.toml")

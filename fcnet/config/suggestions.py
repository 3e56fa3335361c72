"""What to write in place of a mistake in a configuration: the key, the choice or the form of the value."""

from __future__ import annotations

import difflib
import math
import re
import shlex
from typing import Any

from fcnet.config.schema import Config
from fcnet.config.values import format_value

# Names of other libraries and of papers for a key, in lower case and without underscores.
_KEY_SYNONYMS = {
    "seed": "randomseed randomstate manualseed rngseed",
    "data.path": "data datapath datadir dataroot datafolder datasetpath datasetdir root dir folder traindir imagedir",
    "data.source": "dataset datasetname",
    "data.validation": "val valsplit valfraction valsize valid validsplit validationsplit validationfraction",
    "data.test": "testsplit testfraction",
    "data.size": "imagesize imgsize resize inputsize",
    "data.augment": "augmentation augmentations aug transform transforms",
    "data.augment.flip": "hflip horizontalflip randomflip mirror",
    "data.augment.shift": "crop randomcrop translate translation",
    "data.augment.rotate": "rotation randomrotation degrees",
    "data.augment.cutout": "randomerasing erasing erase",
    "data.augment.color_jitter": "jitter",
    "data.balance": "classweight classweights balanced weighted oversample",
    "data.whiten": "pca zca whitening",
    "model.kind": "arch architecture model modelname modeltype",
    "model.hidden": "layers hiddenlayers hiddensize hiddensizes hiddendim hiddendims hiddenunits hiddenlayersizes "
    "layersizes units width widths numlayers nlayers depth neurons",
    "model.activation": "act actfn activationfn activationfunction nonlinearity",
    "model.normalization": "norm batchnorm bn layernorm ln normlayer",
    "model.dropout": "drop dropoutrate dropoutp dropprob pdrop",
    "model.residual": "skip skipconnections residuals resnet",
    "model.initialization": "init weightinit initializer kernelinitializer",
    "optimizer.name": "optim opt optimizer optimizername",
    "optimizer.lr": "learningrate lrate eta alpha stepsize baselr initlr maxlr",
    "optimizer.weight_decay": "wd decay l2 l2reg reg regularization lambda",
    "optimizer.beta1": "betas",
    "optimizer.clip_norm": "clip clipgrad clipgradnorm gradclip gradientclip gradientclipping "
    "gradientclipval maxgradnorm",
    "optimizer.schedule": "scheduler lrscheduler lrschedule lrpolicy",
    "optimizer.milestones": "lrsteps stepepochs",
    "optimizer.gamma": "lrdecay lrgamma decayrate",
    "optimizer.warmup_epochs": "warmup warmupsteps lrwarmup",
    "train.epochs": "numepochs nepochs maxepochs nepoch maxiter niter iterations",
    "train.batch_size": "bs batch batchsize minibatch minibatchsize trainbatchsize perdevicetrainbatchsize",
    "train.accumulate": "accumulation gradaccum accumulategradbatches gradientaccumulationsteps accumulationsteps",
    "train.loss": "criterion lossfn lossfunction objective",
    "train.label_smoothing": "smoothing labelsmooth",
    "train.precision": "amp fp16 bf16 half dtype mixedprecision allowtf32",
    "train.ema_decay": "ema averaging",
    "train.patience": "earlystopping earlystop",
    "train.select": "monitor metric bestmetric metricforbestmodel selection selectby criterionforbest",
    "train.calibrate": "calibration temperature temperaturescaling tempscaling",
    "train.threads": "numthreads nthreads njobs workers numworkers",
    "train.save_seconds": "saveevery saveinterval checkpointevery",
}
_SYNONYM_OF = {name: key for key, names in _KEY_SYNONYMS.items() for name in names.split()}

# Other words for a choice, in lower case and without underscores. A word may mean a choice of several keys.
_CHOICE_SYNONYMS = {
    "validation_accuracy": "accuracy acc valacc valaccuracy",
    "validation_loss": "loss valloss logloss",
    "mean_class_accuracy": "balancedaccuracy meanaccuracy",
    "macro_f1": "f1 f1score f1macro",
    "mean_average_precision": "map averageprecision ap",
    "roc_auc": "auc auroc rocaucscore",
    "brier_score": "brier",
    "top_5_accuracy": "top5 topk top5accuracy",
    "cross_entropy": "ce crossentropyloss nll xent categoricalcrossentropy",
    "quadratic": "mse l2 squared squarederror mseloss",
    "logistic": "bce logreg softmax linear logisticregression binarycrossentropy",
    "hinge": "svm",
    "steps": "step multistep steplr multisteplr",
    "cosine": "cosineannealing cosineannealinglr cos",
    "bfloat16": "bf16 fp16 float16 half amp 16 mixed",
    "float32": "fp32 32 single full float float64 fp64 64 double",
    "sgd": "momentum nesterov gd",
    "glorot": "xavier xavieruniform xaviernormal",
    "he": "kaiming kaimingnormal kaiminguniform msra",
    "batch": "bn batchnorm batchnorm1d",
    "layer": "ln layernorm",
    "none": "null nil off no false",
    "identity": "linear none",
    "images": "image folder imagefolder folders files",
    "arrays": "array numpy npz npy",
    "mlp": "dense nn dnn fc fcn ffn neuralnetwork",
    "weights": "balanced weighted classweight",
    "sampling": "oversample oversampling resample",
}
_MAIN_KEYS = {"optimizer": "name", "model": "kind", "data": "source"}
_MAX_SHOWN = 10**15
_NUMBERS = re.compile(r"[\s,()\[\]]*[\d.][\d.,\s()\[\]]*")
_TRUE, _FALSE = ("true", "yes", "on", "1", "y"), ("false", "no", "off", "0", "n")


def find_key(name: str) -> str | None:
    """Returns the key that an unknown name means: of another section, by another word, or nearly spelled so.

    Args:
        name: a name with or without its section, such as ``train.lr`` or ``learning-rate``.

    Example:
        >>> find_key("learning-rate"), find_key("train.lr"), find_key("model.dropuot"), find_key("zzz")
        ('optimizer.lr', 'optimizer.lr', 'model.dropout', None)
    """
    section, _, last = name.lower().replace("-", "_").rpartition(".")
    keys = _keys()
    same = [key for key in keys if key.rpartition(".")[2] == last]
    if same:
        return same[0]
    if _squeeze(last) in _SYNONYM_OF:
        return _SYNONYM_OF[_squeeze(last)]
    own = [key for key in (*keys, *_sections()) if key.rpartition(".")[0] == section]
    for group in (own, keys):
        names = {key.rpartition(".")[2]: key for key in reversed(group)}
        if close := difflib.get_close_matches(last, names, n=1, cutoff=0.6 if group is own else 0.75):
            return names[close[0]]
    return None


def suggest_key(key: str) -> str:
    """Returns the end of an unknown key's error: the nearest known key, or the known keys of its section.

    Example:
        >>> suggest_key("learning_rate"), suggest_key("train.x")[:25]
        ('; the nearest is optimizer.lr', '; known keys are epochs, ')
    """
    if found := find_key(key):
        return f"; the nearest is {found}"
    section = key.rpartition(".")[0]
    sections = _sections()
    return f"; known keys are {', '.join(sections[section])}" if section in sections else ""


def suggest_choice(value: object, choices: list[str]) -> str | None:
    """Returns the choice that a value means, or None if it is near none.

    Example:
        >>> suggest_choice("adma", ["sgd", "adam", "adamw"]), suggest_choice("CIFAR-10", ["digits", "cifar10"])
        ('adam', 'cifar10')
    """
    text = _squeeze(str(value))
    squeezed = {_squeeze(choice): choice for choice in choices}
    if text in squeezed:
        return squeezed[text]
    meant = [choice for choice in choices if text in _CHOICE_SYNONYMS.get(choice, "").split()]
    if meant:
        return meant[0]
    close = difflib.get_close_matches(text, squeezed, n=1)
    return squeezed[close[0]] if close else None


def suggest_value(kind: str, value: object, key: str = "") -> str | None:
    """Returns the right form of a value that breaks a rule, as TOML, or None if that is not plain.

    Args:
        kind: pydantic's name of the broken rule, such as ``tuple_type``.
        value: the value.
        key: dotted key of the value.

    Example:
        >>> suggest_value("tuple_type", 512), suggest_value("bool_type", "True"), suggest_value("int_type", 3.0)
        ('[512]', 'true', '3')
    """
    if isinstance(value, int) and abs(value) > _MAX_SHOWN:
        return None
    text = str(value).strip()
    if kind == "tuple_type" and not isinstance(value, dict):
        return format_list(text, key) if key == "data.classes" or _NUMBERS.fullmatch(text) else None
    if kind == "bool_type" and text.lower() in _TRUE + _FALSE:
        return "true" if text.lower() in _TRUE else "false"
    if kind == "string_type" and isinstance(value, int | float) and not isinstance(value, bool):
        return format_value(text)
    if kind in {"int_type", "float_type", "integer_or_all"} and isinstance(value, str | float):
        return _number(text, whole=kind != "float_type")
    if kind == "less_than" and isinstance(value, int | float) and 2 <= value < 100:
        return f"{value / 100:g} for {value:g}%"
    if kind == "model_type" and key in _MAIN_KEYS and isinstance(value, str):
        main = f"{key}.{_MAIN_KEYS[key]}"
        choice = suggest_choice(value, _choices(main))
        return f"{main}={choice}" if choice else None
    return None


def format_list(text: str, key: str) -> str:
    """Returns words such as ``512,256`` or ``(512, 256)`` as a list of TOML: strings if the key takes strings.

    Example:
        >>> format_list("512 256", "model.hidden"), format_list("[cat, dog]", "data.classes")
        ('[512, 256]', '["cat", "dog"]')
    """
    words = re.findall(r"""[^\s,()\[\]{}"']+""", text)
    return f"[{', '.join(format_value(word) if key == 'data.classes' else word for word in words)}]"


def suggest_override(name: str, text: str | None) -> str | None:
    """Returns ``--set KEY=VALUE`` as it is to be typed in a shell, or None if the name means no key.

    Args:
        name: known key, or a name that means one.
        text: value as it was given; None if none was.

    Example:
        >>> suggest_override("epochs", "5"), suggest_override("hidden", "512"), suggest_override("residual", None)
        ('--set train.epochs=5', "--set 'model.hidden=[512]'", '--set model.residual=true')
    """
    key = name if name in _keys() else find_key(name)
    if key not in _keys():
        return None
    default = _keys()[key]
    if text is None:
        text = "true" if isinstance(default, bool) else "VALUE"
    elif isinstance(default, bool):
        text = suggest_value("bool_type", text) or text
    elif isinstance(default, tuple):
        text = format_list(text, key)
    elif isinstance(default, int | float):
        text = _number(text, whole=isinstance(default, int)) or text
    elif isinstance(default, str) and (choices := _choices(key)) and text not in choices:
        text = suggest_choice(text, choices) or text
    elif isinstance(default, str) and _NUMBERS.fullmatch(text):
        text = format_value(text)
    return f"--set {shlex.quote(f'{key}={text}')}"


def _number(text: str, *, whole: bool) -> str | None:
    percent = text.endswith("%")
    try:
        number = float(text.rstrip("%").replace(",", ".").replace("_", "")) / (100 if percent else 1)
    except ValueError:
        return None
    if not math.isfinite(number) or (whole and not number.is_integer()):
        return None
    return str(int(number)) if whole else f"{number:g}"


def _squeeze(name: str) -> str:
    return re.sub(r"[\s_\-]", "", name.lower())


def _keys() -> dict[str, Any]:
    """Returns the default of every key by its dotted name, in order of the schema."""
    tree: Any = Config().model_dump()
    keys: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            keys |= {f"{name}.{part}": inner for part, inner in value.items()}
        else:
            keys[name] = value
    return keys | {f"data.augment.{part}": inner for part, inner in tree["data"]["augment"].items()}


def _sections() -> dict[str, list[str]]:
    """Returns the names of each section's keys; the top level is the section without a name."""
    tree: Any = Config().model_dump()
    sections = {name: list(keys) for name, keys in tree.items() if isinstance(keys, dict)}
    return sections | {"": list(tree), "data.augment": list(tree["data"]["augment"])}


def _choices(key: str) -> list[str]:
    """Returns the values among which a key chooses, or nothing if it takes others too."""
    section, _, name = key.rpartition(".")
    model: Any = Config.model_fields[section].annotation if section in Config.model_fields else None
    field = model.model_fields.get(name) if model else None
    choices = getattr(field.annotation, "__args__", ()) if field else ()
    return list(choices) if choices and all(isinstance(choice, str) for choice in choices) else []

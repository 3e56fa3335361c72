"""``python -m fcnet.embed``: writes the features of images, computed by a frozen network."""

from __future__ import annotations

import importlib.util
import math
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fcnet import cli
from fcnet.arguments import Parser
from fcnet.embed.embedding import iter_embedding
from fcnet.embed.exported_programs import SUFFIXES, Normalization, exported_backbone
from fcnet.embed.feature_folder import (
    METADATA,
    FeatureFolder,
    check_output_folder,
    first_difference,
    read_recipe,
)
from fcnet.embed.labelled_images import open_images
from fcnet.embed.torchvision_models import RANDOM, torchvision_backbone
from fcnet.runtime import memory
from fcnet.runtime.errors import UserError
from fcnet.runtime.formatting import format_count, format_duration
from fcnet.runtime.hardware import MAX_THREADS, num_threads
from fcnet.runtime.locks import exclusive_lock

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from fcnet.embed.backbone import Backbone
    from fcnet.embed.labelled_images import LabelledImages

_TORCHVISION = "torchvision:"
_FINAL_KEYS = ("source", "backbone", "skip_broken")
"""What finished features must agree in with a command that resumes them."""


def main(arguments: list[str]) -> int:
    """Parses the arguments, computes the features and writes them; returns the exit code."""
    flags = _parse_flags(arguments)
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive_lock(flags.out):
            _embed(flags)
    except BlockingIOError as error:
        raise UserError(f"--out: {flags.out} is being written: {error.strerror}") from None
    return 0


def _embed(flags: argparse.Namespace) -> None:
    """Computes and writes the features that are missing, and prints what was written."""
    finished = check_output_folder(flags.out, resume=flags.resume)
    begun = read_recipe(flags.out)
    torch.set_num_threads(_choose_threads(begun))
    with cli.say_if_slow("loading the backbone"), memory.phase("loading the model"):
        backbone = _load_backbone(flags)
    recipe = {
        "source": flags.images,
        "backbone": backbone.description,
        "batch_size": min(flags.batch_size, backbone.most or flags.batch_size),
        "skip_broken": flags.skip_broken,
        "device": str(backbone.device),
        "threads": torch.get_num_threads(),
        "versions": _versions(),
    }
    if finished:
        if difference := first_difference(begun, recipe, _FINAL_KEYS):
            raise UserError(f"--resume: the features in {flags.out} were made with {difference}")
        cli.print_status(f"{flags.out} is finished: nothing to resume")
        return
    with cli.say_if_slow("reading the list of images"), memory.phase("reading the data"):
        images = open_images(flags.images)
    counts = {split: len(files) for split, files in images.splits.items()}
    folder = FeatureFolder(flags.out, {**recipe, "state": images.state}, counts, backbone.num_features)
    folder.start()
    before, started = sum(folder.num_done.values()), time.perf_counter()
    _compute(images, backbone, folder, recipe)
    seconds = time.perf_counter() - started
    folder.finish(images.classes, {**recipe, "notes": images.notes})
    for note in (*images.notes, *_skipped_notes(folder)):
        cli.print_status(f"note: {note}")
    shapes = ", ".join(f"{split} {count:,} × {backbone.num_features:,}" for split, count in folder.num_written.items())
    rate = f"{(sum(counts.values()) - before) / max(seconds, 1e-9):,.0f} images/s"
    earlier = f", {format_count(before, 'image')} in an earlier run" if before else ""
    cli.print_status(f"{flags.out}: {shapes} features in {format_duration(seconds)} ({rate}{earlier})")


def _compute(images: LabelledImages, backbone: Backbone, folder: FeatureFolder, recipe: dict[str, Any]) -> None:
    """Computes the features that are missing, and shows the progress."""
    total = sum(map(len, images.splits.values()))
    steps = iter_embedding(images, backbone, folder, batch_size=recipe["batch_size"], skip_broken=recipe["skip_broken"])
    with cli.show_image_progress("embedding") as progress, memory.phase("embedding images"):
        progress(sum(folder.num_done.values()), total)
        for done in steps:
            progress(done, total)


def _choose_threads(begun: Mapping[str, Any]) -> int:
    """Returns the number of threads of an earlier run, which may change the last bits of a sum, or this machine's."""
    threads = begun.get("threads")
    return threads if isinstance(threads, int) and 1 <= threads <= MAX_THREADS else num_threads()


def _skipped_notes(folder: FeatureFolder) -> list[str]:
    count = len(folder.skipped)
    if not count:
        return []
    name, reason = folder.skipped[0]
    return [f"{format_count(count, 'unreadable image')} skipped, listed in {METADATA}; the first: {name} {reason}"]


def _load_backbone(flags: argparse.Namespace) -> Backbone:
    device = cli.choose_device(flags.device)
    name: str = flags.backbone
    normalization = _parse_normalization(flags.mean, flags.std)
    if name.startswith(_TORCHVISION):
        if normalization:
            raise UserError("--mean and --std must be left out for a model of torchvision, which has its own")
        return torchvision_backbone(name.removeprefix(_TORCHVISION), flags.weights, size=flags.size, device=device)
    file = Path(name)
    if file.suffix not in SUFFIXES:
        _refuse_backbone(name)
    if flags.weights is not None:
        raise UserError(f"--weights must be left out for {file}, which has its weights in it")
    return exported_backbone(file, normalization=normalization, size=flags.size, device=device)


def _refuse_backbone(name: str) -> None:
    rule = f"--backbone must be {_TORCHVISION}NAME or a file that ends in {' or '.join(SUFFIXES)}, got {name}"
    if Path(name).suffix in {".pt", ".pth", ".safetensors"}:
        raise UserError(f"{rule}; weights alone need --backbone {_TORCHVISION}NAME --weights {name}")
    if "." not in name and "/" not in name:
        raise UserError(f"{rule}; write {_TORCHVISION}{name.partition(':')[2] or name}")
    raise UserError(rule)


def _parse_normalization(mean: str | None, std: str | None) -> Normalization | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UserError("--mean and --std must be given together")
    values = {}
    for flag, text in (("--mean", mean), ("--std", std)):
        try:
            values[flag] = tuple(map(float, text.split(",")))
        except ValueError:
            raise UserError(f"{flag} must be numbers with commas between them, got {text}") from None
    if not all(map(math.isfinite, values["--mean"])):
        raise UserError(f"--mean must be finite, got {mean}")
    if not all(0 < value < math.inf for value in values["--std"]):
        raise UserError(f"--std must be greater than 0, got {std}")
    return Normalization(values["--mean"], values["--std"])


def _versions() -> dict[str, str]:
    """Returns the versions of what the features depend on."""
    names = ["fcnet", "torch", "torchvision", "numpy", "pillow"]
    return {
        name: version(name) for name in [*names, *(["onnxruntime"] * bool(importlib.util.find_spec("onnxruntime")))]
    }


def _parse_flags(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        "embed",
        "Compute features of images with a frozen network, and write them to a folder.",
        [
            "photos --backbone torchvision:resnet18 --out features",
            "photos.tar --backbone net.onnx --out features",
        ],
    )
    parser.add_argument(
        "images", metavar="IMAGES", help="folder or archive of images, .npz of pixels, digits, cifar10 or cifar100"
    )
    parser.add_argument(
        "--backbone", metavar="NETWORK", help=f"{_TORCHVISION}NAME without its classifier, or a file (.pt2, .onnx)"
    )
    parser.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help=f"of a model of torchvision: a file, {RANDOM}, or a name such as IMAGENET1K_V1 (default: torchvision's)",
    )
    parser.add_out("folder for the features", "FEATURES")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="height and width to scale images to")
    parser.add_argument("--mean", metavar="NUMBERS", help="of each channel, for a file that takes float32: 0.5,0.5,0.5")
    parser.add_argument("--std", metavar="NUMBERS", help="standard deviation of each channel, for the same")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in a batch (default: 64)")
    parser.add_argument("--skip-broken", action="store_true", help="skip unreadable images, and list them")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted command")
    parser.add_device()
    flags = parser.parse(arguments)
    if flags.backbone is None:
        raise UserError(f"--backbone is missing: {_TORCHVISION}NAME or a file that ends in {' or '.join(SUFFIXES)}")
    if flags.out is None:
        raise UserError("--out is missing: the folder for the features")
    for flag, value in (("--batch-size", flags.batch_size), ("--size", flags.size)):
        if value is not None and value < 1:
            raise UserError(f"{flag} must be at least 1, got {value}")
    if flags.out.name in {"", ".."}:
        raise UserError(f"--out must be a folder of its own, got {flags.out}")
    return flags


if __name__ == "__main__":
    cli.run_command(main)

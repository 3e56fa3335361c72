"""Writes features of images that need no trained network: whitened patches, thresholded and pooled.

    python scripts/patch_features.py IMAGES --filters 1600 --out FEATURES

After A. Coates and A. Ng, "The Importance of Encoding Versus Training with Sparse Coding and Vector Quantization",
2011. Filters D (K, P) are the means of a spherical k-means of whitened patches, or random ones of these patches. A
patch x of P values is normalized to x̂ = (x − mean(x)) / √(var(x) + 10) and whitened; its features are
max(0, D · white(x̂) − α). Those of all patches of an image are averaged over its quadrants, which gives 4K features.

IMAGES and the folder FEATURES are those of ``fcnet embed``, and so are ``--resume`` and what it promises.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fcnet import cli
from fcnet.data.decoding.decode_batch import DecodeOptions, decode_image_file, decode_images
from fcnet.embed.backbone import Backbone, ImagePreprocessing
from fcnet.embed.embedding import iter_embedding
from fcnet.embed.feature_folder import FeatureFolder, check_output_folder
from fcnet.embed.labelled_images import LabelledImages, open_images
from fcnet.runtime.errors import UserError
from fcnet.runtime.hardware import num_threads
from fcnet.runtime.locks import exclusive_lock
from fcnet.runtime.seeds import generator

CONTRAST = 10.0  # added to the variance of a patch, whose values are from 0 to 255
WHITENING = 0.1  # added to each eigenvalue of the covariance of normalized patches
KMEANS_STEPS = 10
PATCHES_PER_IMAGE = 10
BATCH_SIZE = 64


class Filters(NamedTuple):
    """Filters of normalized patches: the features of x̂ are max(0, weight · x̂ − bias).

    Attributes:
        weight: float32 (K, C, side, side), the filters after whitening.
        bias: float32 (K,), with α in it.
    """

    weight: Tensor
    bias: Tensor


class PatchNetwork(nn.Module):
    """Maps pixels to the mean features of the patches in each quadrant, (B, C, H, W) -> (B, 4K)."""

    def __init__(self, filters: Filters) -> None:
        super().__init__()
        self.filters = filters

    def forward(self, pixels: Tensor) -> Tensor:
        """Computes weight · x̂ = (weight · x − Σ weight · mean(x)) / √(var(x) + 10) by convolutions."""
        weight, bias = self.filters
        x, side = pixels.float(), weight.shape[-1]
        mean, square = (functional.avg_pool2d(each.mean(1, keepdim=True), side, stride=1) for each in (x, x * x))
        scale = (square - mean * mean).clamp(min=0.0).add_(CONTRAST).rsqrt_()
        response = functional.conv2d(x, weight).sub_(weight.sum((1, 2, 3)).view(-1, 1, 1) * mean).mul_(scale)
        activation = response.sub_(bias.view(-1, 1, 1)).relu_()
        # For an odd number of rows, quadrants share the middle one.
        return functional.adaptive_avg_pool2d(activation, 2).flatten(1)


def normalize_patches(patches: Tensor) -> Tensor:
    """Returns patches (N, P) of pixels with mean 0, and about variance 1."""
    centred = patches - patches.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + CONTRAST).sqrt()


def fit_filters(
    patches: Tensor, shape: tuple[int, int, int], num_filters: int, *, kmeans: bool, alpha: float, seed: int
) -> Filters:
    """Fits filters to patches.

    Args:
        patches: float32 (N, P) of pixels, more than filters.
        shape: (C, side, side), the shape of a patch.
        num_filters: K.
        kmeans: whether filters are means of k-means; else they are random patches.
        alpha: the threshold α.
        seed: seed of the choice of patches to start from.
    """
    normalized = normalize_patches(patches)
    mean = normalized.double().mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(normalized.double().T))
    whiten = vectors @ torch.diag((values + WHITENING).rsqrt()) @ vectors.T
    white = ((normalized.double() - mean) @ whiten).float()
    rows = torch.randperm(len(white), generator=generator(seed, "patch filters"))[:num_filters]
    filters = functional.normalize(white[rows])
    for _ in range(KMEANS_STEPS if kmeans else 0):
        filters = kmeans_step(white, filters)
    weight = filters.double() @ whiten
    return Filters(weight.float().view(-1, *shape), (weight @ mean + alpha).float())


def kmeans_step(white: Tensor, filters: Tensor) -> Tensor:
    """Moves each filter to the weighted mean of the patches that it fits best, up to their sign."""
    sums = filters.clone()  # a filter without patches stays
    for block in white.split(10_000):
        scores = block @ filters.T
        best = scores.abs().argmax(1)
        weights = scores.gather(1, best[:, None])
        sums.index_add_(0, best, block * weights)
    return functional.normalize(sums)


def sample_patches(images: LabelledImages, options: DecodeOptions, side: int, num_patches: int, seed: int) -> Tensor:
    """Returns random patches of random training images, float32 (N, P)."""
    files = images.splits["train"]
    draws = generator(seed, "patches")
    num_images = min(len(files), -(-num_patches // PATCHES_PER_IMAGE))
    per_image = -(-num_patches // num_images)
    shape = (options.channels, options.height, options.width)
    patches = []
    for row in torch.randperm(len(files), generator=draws)[:num_images].sort().values.tolist():
        decoded = decode_images([files[row]], options)
        if decoded.skipped:
            continue
        image = torch.from_numpy(np.frombuffer(bytearray(decoded.data), np.uint8).reshape(shape))
        tops, lefts = (torch.randint(length - side + 1, (per_image,), generator=draws).tolist() for length in shape[1:])
        patches += [
            image[:, top : top + side, left : left + side].flatten() for top, left in zip(tops, lefts, strict=True)
        ]
    return torch.stack(patches).float()


def make_backbone(flags: argparse.Namespace, images: LabelledImages) -> Backbone:
    """Fits the filters to training images; returns the network and what it was fitted with."""
    location = DecodeOptions(flags.images, flags.skip_broken)
    _, *own_size = decode_image_file(images.splits["train"][0], location)
    height, width = [flags.size, flags.size] if flags.size else own_size
    if min(height, width) <= flags.side:
        raise UserError(f"--side must be less than the size of the images, {width}×{height} pixels, got {flags.side}")
    options = DecodeOptions(flags.images, flags.skip_broken, 3, height, width, resize=True)
    patches = sample_patches(images, options, flags.side, max(flags.patches, flags.filters + 1), flags.seed)
    shape = (3, flags.side, flags.side)
    filters = fit_filters(
        patches, shape, flags.filters, kmeans=flags.method == "kmeans", alpha=flags.alpha, seed=flags.seed
    )
    names = ("method", "filters", "side", "alpha", "patches", "seed")
    description = {"name": "patches", **{name: getattr(flags, name) for name in names}}
    return Backbone(PatchNetwork(filters).eval(), ImagePreprocessing(3, (height, width)), description)


def main(arguments: list[str]) -> int:
    """Fits filters, computes the features of all images and writes them."""
    flags = parse_flags(arguments)
    torch.set_num_threads(num_threads())
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(flags.out):
        if check_output_folder(flags.out, resume=flags.resume):
            cli.print_status(f"{flags.out} is finished: nothing to resume")
            return 0
        images = open_images(flags.images)
        backbone = make_backbone(flags, images)
        counts = {split: len(files) for split, files in images.splits.items()}
        versions = {"torch": str(torch.__version__), "threads": torch.get_num_threads()}
        recipe = {
            "source": flags.images,
            "backbone": backbone.description,
            "skip_broken": flags.skip_broken,
            **versions,
        }
        folder = FeatureFolder(flags.out, {**recipe, "state": images.state}, counts, backbone.num_features)
        folder.start()
        steps = iter_embedding(images, backbone, folder, batch_size=BATCH_SIZE, skip_broken=flags.skip_broken)
        with cli.show_image_progress("embedding", "embedded") as progress:
            progress(sum(folder.num_done.values()), sum(counts.values()))
            for done in steps:
                progress(done, sum(counts.values()))
        folder.finish(images.classes, {**recipe, "notes": images.notes})
    shapes = ", ".join(f"{split} {count:,} × {backbone.num_features:,}" for split, count in folder.num_written.items())
    cli.print_status(f"{flags.out}: {shapes} features")
    return 0


def parse_flags(arguments: list[str]) -> argparse.Namespace:
    """Parses and checks the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", metavar="IMAGES", help="as for fcnet embed")
    parser.add_argument("--out", type=Path, metavar="FEATURES", required=True, help="folder for the features")
    parser.add_argument("--filters", type=int, default=1600, metavar="K", help="filters (default: 1600)")
    parser.add_argument("--method", choices=["kmeans", "random"], default="kmeans", help="how filters are found")
    parser.add_argument("--side", type=int, default=6, metavar="PIXELS", help="side of a patch (default: 6)")
    parser.add_argument("--alpha", type=float, default=0.25, metavar="NUMBER", help="threshold (default: 0.25)")
    parser.add_argument("--patches", type=int, default=100_000, metavar="N", help="patches to fit (default: 100,000)")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="size of the images (default: that of the first)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the filters (default: 0)")
    parser.add_argument("--skip-broken", action="store_true", help="skip unreadable images")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted command")
    flags = parser.parse_args(arguments)
    for name in ("filters", "side", "patches"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(flags, name)}")
    return flags


if __name__ == "__main__":
    cli.run_command(main)

"""Tests of scripts/patch_features.py: the features are their formula, and the same for the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.helpers import (
    command_output,
    preserve_process_state,
    random_images,
    read_tree,
    run_command,
    write_image_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = ("pets", "--filters", "7", "--side", "3", "--patches", "60")


@pytest.fixture
def pets(working_folder: Path) -> None:
    draws = np.random.default_rng(0)
    write_image_folder(
        "pets", ("a", "b"), {"train": 5, "test": 2}, lambda *_: draws.integers(256, size=(9, 8, 3), dtype=np.uint8)
    )


def embed(program: Callable[[str], Any], out: str, *flags: str) -> dict[str, bytes | None]:
    with preserve_process_state():
        command_output(program("patch_features").main, *SMALL, *flags, "--out", out)
    return read_tree(out)


@pytest.mark.parametrize("kmeans", [True, False])
def test_features_are_whitened_thresholded_and_averaged_over_quadrants(
    program: Callable[[str], Any], *, kmeans: bool
) -> None:
    module = program("patch_features")
    pixels = random_images(4, (3, 7, 9))
    patches = torch.nn.functional.unfold(random_images(20, (3, 8, 8)).float(), 4).transpose(1, 2).flatten(0, 1)
    filters = module.fit_filters(patches, (3, 4, 4), 5, kmeans=kmeans, alpha=0.25, seed=0)
    features = module.PatchNetwork(filters)(pixels)

    columns = torch.nn.functional.unfold(pixels.float(), 4).transpose(1, 2)  # 4 × 6 places
    normalized = module.normalize_patches(columns.flatten(0, 1))
    active = (normalized @ filters.weight.flatten(1).T - filters.bias).relu().view(4, 4, 6, 5)
    quadrants = [
        active[:, rows, cols].mean((1, 2)) for rows in (slice(2), slice(2, 4)) for cols in (slice(3), slice(3, 6))
    ]
    expected = torch.stack(quadrants, dim=2).flatten(1)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    assert features.shape == (4, 20)
    assert (features > 0).any()


def test_filters_have_unit_length_in_the_whitened_space(program: Callable[[str], Any]) -> None:
    module = program("patch_features")
    patches = random_images(500, (3, 2, 2)).float().flatten(1)
    weight, _ = module.fit_filters(patches, (3, 2, 2), 6, kmeans=True, alpha=0.0, seed=0)
    normalized = module.normalize_patches(patches).double()
    covariance = torch.cov(normalized.T) + module.WHITENING * torch.eye(12)
    flat = weight.flatten(1).double()
    lengths = torch.einsum("kp,pq,kq->k", flat, covariance, flat)
    torch.testing.assert_close(lengths, torch.ones(6, dtype=torch.float64), atol=1e-4, rtol=1e-4)


def test_kmeans_explains_patches_better_than_random_ones(program: Callable[[str], Any]) -> None:
    module = program("patch_features")
    white = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    white[:, 0] *= 5
    filters = torch.nn.functional.normalize(white[:4])

    def explained(filters: torch.Tensor) -> float:
        return float((white @ filters.T).abs().amax(1).square().sum())

    assert explained(module.kmeans_step(module.kmeans_step(white, filters), filters)) > explained(filters)


@pytest.mark.usefixtures("pets")
def test_the_folder_is_that_of_embed_and_depends_on_the_seed_alone(program: Callable[[str], Any]) -> None:
    first = embed(program, "first")
    assert embed(program, "second") == first
    assert embed(program, "third", "--seed", "1") != first
    assert embed(program, "fourth", "--method", "random")["x_train.npy"] != first["x_train.npy"]
    assert np.load("first/x_train.npy").shape == (10, 28)
    assert np.load("first/y_test.npy").tolist() == [0, 0, 1, 1]
    assert Path("first/paths_test.txt").read_text().splitlines()[0] == "test/a/0.png"


@pytest.mark.usefixtures("pets")
def test_the_last_line_speaks_of_an_earlier_run_only_after_one(
    program: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, arguments = program("patch_features"), (*SMALL, "--out", "f")
    monkeypatch.setattr(module, "BATCH_SIZE", 4)
    finish = module.FeatureFolder.finish

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with preserve_process_state():
        assert "earlier" not in command_output(module.main, *SMALL, "--out", "whole")
        monkeypatch.setattr(module.FeatureFolder, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            module.main(list(arguments))
        monkeypatch.setattr(module.FeatureFolder, "finish", finish)
        assert ", 14 of them in an earlier run" in command_output(module.main, *arguments, "--resume")


@pytest.mark.usefixtures("pets")
def test_mistakes_are_one_line(program: Callable[[str], Any]) -> None:
    main = program("patch_features").main
    with preserve_process_state():
        code, _, error = run_command(main, *SMALL, "--side", "8", "--out", "f")
        assert (code, error) == (2, "--side must be less than the size of the images, 8×9 pixels, got 8\n")
        assert run_command(main, *SMALL, "--filters", "0", "--out", "f").err == "--filters must be at least 1, got 0\n"

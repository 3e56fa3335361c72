"""Another standardization of the features of a network, without a change of what it computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from fcnet.models.batch_norm import BatchNorm

if TYPE_CHECKING:
    from fcnet.models.mlp import MLP
    from fcnet.sklearn.scaler import Statistics


@torch.no_grad()
def restandardize(model: MLP, before: Statistics, after: Statistics) -> None:
    """Changes the first layer for features standardized by ``after`` in place of ``before``.

    From W (x − m) / s = W′ (x − m′) / s′ + W (m′ − m) / s with W′ = W s′ / s follow the new weights, and the shift of
    the bias, or of the running mean of batch normalization. A feature that has been constant was always 0. Its weights
    have had no effect, and stay as they are, so that a new scale cannot make them large.

    Args:
        model: a network whose first layer has a bias or batch normalization.
        before: the statistics for which the network was trained.
        after: the statistics for which it is to compute the same.
    """
    layer = model.dense_layers()[0]
    varied = before.variance > 0.0
    weight = layer.weight.double()
    gap = (after.mean - before.mean) / np.where(varied, before.std, after.std)
    shift = weight @ torch.from_numpy(gap)
    layer.weight.copy_(weight * torch.from_numpy(np.where(varied, after.std / before.std, 1.0)))
    if layer.bias is not None:
        layer.bias.add_(shift)
    elif isinstance(layer.normalization, BatchNorm):
        layer.normalization.running_mean.sub_(shift)

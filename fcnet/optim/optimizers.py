"""Which parameters decay, how an optimizer's step is made, and the optimizers that PyTorch lacks."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import optimizer as hooks

from fcnet.optim.newton_schulz import orthogonalize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

FUSED_OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Torch's optimizers that have a fused step."""
_UNWRAPPED_STEPS: dict[type[torch.optim.Optimizer], Callable[..., object]] = {
    kind: inspect.unwrap(kind.step) for kind in FUSED_OPTIMIZERS
}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimizer: matrices, which decay, and vectors, which do not; one if nothing decays.

    A bias, and a normalisation's scale and shift, set where a unit works, not how complex the
    function is; pulling them to 0 only biases the model.

    Args:
        model: any module.
        weight_decay: the matrices' decay.

    Returns:
        Groups in the form of torch's optimizers; an empty one is left out.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if weight_decay == 0.0:
        return [{"params": parameters, "weight_decay": 0.0}]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def fast_step(optimizer: torch.optim.Optimizer) -> None:
    """Makes an optimizer's step.

    Around the step of one of torch's own are a mark for the profiler, calls of hooks and a word to the compiler. They
    take as long as a small network's products, and are left out where nobody has hooked on.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> weight.grad = torch.tensor([1.0, 2.0])
        >>> fast_step(torch.optim.SGD([weight], lr=0.1))
        >>> weight.detach()
        tensor([0.9000, 0.8000])
    """
    bare = _UNWRAPPED_STEPS.get(type(optimizer))
    if bare is None or _has_hooks(optimizer):
        optimizer.step()
    else:
        bare(optimizer)


def _has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody is told of the optimizer's steps, as torch's schedulers are by a step of its own."""
    return bool(
        "step" in vars(optimizer)
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
    )


class Muon(torch.optim.Optimizer):
    """Matrices move by the nearest orthogonal matrix to their momentum, all else by AdamW.

    For a weight matrix W (n, m) with gradient G, the momentum is M ← μ M + (1 − μ) G and the direction
    G̃ = μ M + (1 − μ) G (Nesterov's). With the singular value decomposition G̃ = U Σ Vᵀ,

        W ← (1 − η λ) W − η · 0.2 √max(n, m) · U Vᵀ

    up to the error of `fcnet.optim.newton_schulz.orthogonalize`, which leaves singular values of 0.73 to 1.27. The
    factor 0.2 √max(n, m) gives the step the size that AdamW's has, so that one learning rate and one decay
    serve both. `torch.optim.Muon` moves along the same direction; it takes nothing but matrices, and its bfloat16
    products are a hundred times slower than float32's on processors that have none. Its step can be captured in a
    CUDA graph, with a learning rate that is a tensor.

    Args:
        params: parameters or groups of them, as torch's optimizers take them.
        lr: η.
        weight_decay: λ, of groups that do not set their own.
        momentum: μ.
        betas: AdamW's, for what is not a matrix.

    Source:
        Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the factor: Liu et
        al., "Muon is scalable for LLM training", 2025.

    Example:
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> weight.grad = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> Muon([weight], lr=0.1).step()
        >>> bool((weight.diagonal() < 1.0).all())
        True
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas, "capturable": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 - as torch has it
        """Moves every parameter that has a gradient once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        matrices = [(parameter, group) for parameter, group in moving if parameter.ndim == 2]
        directions = orthogonalize([self._nesterov(parameter, group["momentum"]) for parameter, group in matrices])
        for parameter, group in moving:
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        for (parameter, group), direction in zip(matrices, directions, strict=True):
            parameter.sub_(direction * (0.2 * math.sqrt(max(parameter.shape)) * group["lr"]))
        for parameter, group in moving:
            if parameter.ndim != 2:
                self._adam(parameter, parameter.grad, self.state[parameter], group)
        return loss

    def _nesterov(self, parameter: Tensor, share: float) -> Tensor:
        """The direction G̃, after the momentum has taken the gradient in."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum: Tensor = state["momentum_buffer"].lerp_(parameter.grad, 1.0 - share)
        return parameter.grad.lerp(momentum, share)

    @staticmethod
    def _adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1.0 - beta1) / (1.0 - beta1 ** state["step"])
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - beta2) / (1.0 - beta2 ** state["step"])
        parameter.sub_(mean / (square.sqrt() + 1e-8) * group["lr"])


class LBFGS(torch.optim.LBFGS):
    """Torch's L-BFGS, one iteration a step: a line search along the quasi-Newton direction.

    What is minimised is the loss plus ½ λ ‖W‖² over the parameters of groups with a decay λ. For a
    loss that is the same function at every step: the whole training set.

    Args:
        params: parameters, or groups of them with a ``weight_decay`` each.
        lr: the first length that the line search tries.
        history_size: steps that are remembered.

    Source:
        Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", 1989.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
        >>> optimizer = LBFGS([x])
        >>> def closure():
        ...     x.grad = None
        ...     loss = (x - 1.0).square().sum()
        ...     loss.backward()
        ...     return loss
        >>> for _ in range(5):
        ...     _ = optimizer.step(closure)
        >>> [round(value, 4) for value in x.tolist()]
        [1.0, 1.0]
    """

    def __init__(self, params: Iterable[Any], *, lr: float = 1.0, history_size: int = 10) -> None:
        groups = list(params)
        groups = groups if groups and isinstance(groups[0], dict) else [{"params": groups}]
        self._decays = [
            (p, group["weight_decay"]) for group in groups for p in group["params"] if "weight_decay" in group
        ]
        super().__init__(
            [parameter for group in groups for parameter in group["params"]],
            lr=lr,
            max_iter=1,
            max_eval=25,
            history_size=history_size,
            line_search_fn="strong_wolfe",
        )

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override] # noqa: ANN401 - as torch has it
        """One iteration; ``closure`` sets the gradients and gives the loss, at least once."""

        def penalized() -> float:
            found = closure()
            loss: float = found.item() if isinstance(found, Tensor) else found
            with torch.no_grad():
                for parameter, decay in self._decays:
                    loss += 0.5 * decay * parameter.square().sum().item()
                    parameter.grad.add_(parameter, alpha=decay)
            return loss

        return super().step(penalized)  # type: ignore[no-untyped-call]

    def state_dict(self) -> dict[str, Any]:
        """As torch's, without what only lives within a step."""
        state: dict[str, Any] = super().state_dict()
        state["state"] = {
            index: {name: value for name, value in entries.items() if name != "al"}
            for index, entries in state["state"].items()
        }
        return state

"""Which parameters decay, and the optimizers that PyTorch lacks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


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


class Muon(torch.optim.Optimizer):
    """Matrices move by the nearest orthogonal matrix to their momentum, all else by AdamW.

    For a weight matrix W (n, m) with gradient G, the momentum is M ← μ M + (1 − μ) G and the direction
    G̃ = μ M + (1 − μ) G (Nesterov's). With the singular value decomposition G̃ = U Σ Vᵀ,

        W ← (1 − η λ) W − η · 0.2 √max(n, m) · U Vᵀ

    up to the error of five Newton–Schulz iterations, which leave singular values of 0.7 to 1.2. The
    factor 0.2 √max(n, m) gives the step the size that AdamW's has, so that one learning rate and one decay
    serve both. `torch.optim.Muon` is the same for matrices; it takes nothing else, and its bfloat16
    products are a hundred times slower than float32's on processors that have none.

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
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "betas": betas})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 - as torch has it
        """Moves every parameter that has a gradient once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
                    move = self._muon if parameter.ndim == 2 else self._adam
                    move(parameter, parameter.grad, self.state[parameter], group)
        return loss

    @staticmethod
    def _muon(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp_(gradient, 1.0 - group["momentum"])
        direction = orthogonalized(gradient.lerp(momentum, group["momentum"]))
        parameter.add_(direction, alpha=-0.2 * group["lr"] * math.sqrt(max(parameter.shape)))

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


def orthogonalized(matrix: Tensor) -> Tensor:
    """About U Vᵀ of a matrix U Σ Vᵀ: five steps of X ← a X + b X Xᵀ X + c (X Xᵀ)² X from X = matrix / its norm.

    Singular values of more than a thousandth of the norm end between 0.68 and 1.21, smaller ones nearer
    to 0. On a GPU X is iterated in bfloat16, as is usual. On a processor the polynomials in A = X Xᵀ are
    multiplied first, in float32: X is wanted only at the end, so with X's short side on the left all
    products but two are of small square matrices.

    Args:
        matrix: float (n, m).

    Returns:
        The same shape and dtype; 0 for a matrix of zeros.
    """
    x = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    x = x / matrix.norm().clamp(min=torch.finfo(matrix.dtype).tiny)
    x = _iterated(x.bfloat16()) if matrix.is_cuda else _polynomial(x @ x.T) @ x
    return (x if len(matrix) <= matrix.shape[1] else x.T).to(matrix.dtype)


def _iterated(x: Tensor) -> Tensor:
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _polynomial(gram: Tensor) -> Tensor:
    """Q with Q X what `_iterated` makes of X, from X Xᵀ; all of these matrices commute."""
    a, b, c = _QUINTIC
    product: Tensor | None = None
    for iteration in range(_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if iteration < _ITERATIONS - 1:
            gram = factor @ gram @ factor
    assert product is not None
    return product


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

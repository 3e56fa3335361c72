"""Parameter groups for weight decay, a fast optimizer step, and the optimizers Muon and L-BFGS."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import optimizer as hooks

from fcnet.functional.arguments import to_real
from fcnet.optim.newton_schulz import orthogonalize
from fcnet.runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import nn

FUSED_OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""torch's optimizers with a fused step."""

_UNWRAPPED_STEPS: dict[type[torch.optim.Optimizer], Callable[..., object]] = {
    kind: inspect.unwrap(kind.step) for kind in FUSED_OPTIMIZERS
}


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits a model's parameters into matrices, which decay, and vectors, which do not.

    A bias and the scale and shift of a normalization place a unit's working point. They do not make the function more
    complex, so pulling them to 0 only biases the model.

    Args:
        model: any module. Frozen parameters are left out.
        weight_decay: the decay of the matrices.

    Returns:
        One or two groups in the form that torch's optimizers take. Without decay there is one group of all parameters.
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
    """Makes an optimizer's step, without profiler and hook overhead if no hook is registered.

    torch wraps the step of each of its optimizers in a profiler range, hook calls and a compiler guard. For a small
    network they take as long as the matrix products.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> weight.grad = torch.tensor([1.0, 2.0])
        >>> fast_step(torch.optim.SGD([weight], lr=0.1))
        >>> weight.detach()
        tensor([0.9000, 0.8000])
    """
    unwrapped = _UNWRAPPED_STEPS.get(type(optimizer))
    if unwrapped is None or has_step_hooks(optimizer):
        optimizer.step()
    else:
        unwrapped(optimizer)


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Returns whether any code runs around the optimizer's step."""
    return bool(
        "step" in vars(optimizer)  # torch's schedulers replace the method of the instance to count its calls
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooks._global_optimizer_pre_hooks
        or hooks._global_optimizer_post_hooks
    )


class Muon(torch.optim.Optimizer):
    """Updates matrices by the orthogonal matrix nearest to their momentum, and all other parameters by AdamW.

    For a weight matrix W (n, m) with gradient G, the momentum is M ← μ M + (1 − μ) G and the direction
    G̃ = μ M + (1 − μ) G (Nesterov's). With the singular value decomposition G̃ = U Σ Vᵀ,

        W ← (1 − η λ) W − η · 0.2 √max(n, m) · U Vᵀ

    up to the error of `fcnet.optim.newton_schulz.orthogonalize`, which leaves singular values of 0.729 to 1.270, and
    smaller ones where Σᵢᵢ is below a hundredth of (Σ σᵢ⁸)^⅛. The factor 0.2 √max(n, m) gives the step the size of
    AdamW's, so that one learning rate and one decay serve both. A matrix of one row or column has the direction
    G̃ / ‖G̃‖, which is exact.

    `torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"`` has the same factor and follows the same direction, with
    singular values of 0.68 to 1.14 and, for one row or column, 0.70. Its default factor is √max(1, n / m). It takes
    matrices only.
    Its bfloat16 products are a hundred times slower than float32 on a CPU without bfloat16 instructions. A CUDA graph
    can capture the step of this class, with a tensor as learning rate.

    Args:
        params: parameters, or groups of them, as torch's optimizers take them: real and floating.
        lr: η, a finite number of at least 0, or a tensor of one.
        weight_decay: λ of groups without their own, a finite number of at least 0.
        momentum: μ, in [0, 1).
        betas: the decay rates of AdamW's two moments, in [0, 1).

    Raises:
        UserError: an argument is outside its range, or a parameter is complex; in a step, a gradient is sparse.

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

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, as torch's optimizers do, and checks its settings and parameters."""
        super().add_param_group(param_group)
        _check_muon_group(self.param_groups[-1])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401 - as torch has it
        """Updates every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        updates = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(parameter.grad.layout != torch.strided for parameter, _ in updates):
            raise UserError("gradients must be dense for Muon, got a sparse gradient")
        matrices = [(parameter, group) for parameter, group in updates if parameter.ndim == 2]
        # One call for all matrices: those with the same short side share their products.
        directions = orthogonalize([self._nesterov(parameter, group["momentum"]) for parameter, group in matrices])
        for parameter, group in updates:
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        for (parameter, group), direction in zip(matrices, directions, strict=True):
            parameter.sub_(direction * (0.2 * math.sqrt(max(parameter.shape)) * group["lr"]))
        for parameter, group in updates:
            if parameter.ndim != 2:
                self._adam(parameter, parameter.grad, self.state[parameter], group)
        return loss

    def _nesterov(self, parameter: Tensor, momentum: float) -> Tensor:
        """Updates the momentum M and returns the direction G̃."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average: Tensor = state["momentum_buffer"].lerp_(parameter.grad, 1.0 - momentum)
        return parameter.grad.lerp(average, momentum)

    @staticmethod
    def _adam(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)  # on the device, for a CUDA graph to count
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1.0 - beta1) / (1.0 - beta1 ** state["step"])
        square = state["exp_avg_sq"].lerp_(gradient.square(), 1.0 - beta2) / (1.0 - beta2 ** state["step"])
        parameter.sub_(mean / (square.sqrt() + 1e-8) * group["lr"])


def _check_muon_group(group: dict[str, Any]) -> None:
    """Checks a group's settings and parameters, those that come from the defaults too."""
    lr, betas = group["lr"], group["betas"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise UserError(f"lr must be one number, got a tensor of shape {tuple(lr.shape)}")
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise UserError(f"betas must be two numbers, got {betas!r}")
    for name in ("lr", "weight_decay"):
        if not 0.0 <= _to_float(name, group[name]) < math.inf:
            raise UserError(f"{name} must be a finite number of at least 0, got {group[name]}")
    for name, rate in (("momentum", group["momentum"]), ("betas", betas[0]), ("betas", betas[1])):
        if not 0.0 <= _to_float(name, rate) < 1.0:
            raise UserError(f"{name} must be in [0, 1), got {rate}")
    dtypes = {parameter.dtype for parameter in group["params"] if not parameter.is_floating_point()}
    if dtypes:
        raise UserError(f"parameters must be of a floating dtype for Muon, got {', '.join(map(str, dtypes))}")


def _to_float(name: str, value: Any) -> float:  # noqa: ANN401 - a user's argument
    try:
        return to_real(name, value.squeeze() if isinstance(value, Tensor) else value)
    except TypeError as error:
        raise UserError(str(error)) from error


class LBFGS(torch.optim.LBFGS):
    """torch's L-BFGS with one iteration per step: a line search along the quasi-Newton direction.

    It minimizes the loss plus ½ λ ‖W‖² over the parameters of each group with a decay λ. The loss must be the same
    function at every step, so a batch must be the whole training set.

    Args:
        params: parameters, or groups of them, each with a ``weight_decay``.
        lr: the first step length of the line search.
        history_size: the number of past steps that approximate the Hessian.

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
        """Makes one iteration. It calls ``closure``, which sets the gradients and returns the loss, at least once."""

        def penalized() -> float:
            value = closure()
            with torch.no_grad():
                # A device is asked once for all values: each read waits for it.
                scalars = [value.reshape(())] if isinstance(value, Tensor) else []
                scalars += [parameter.square().sum() for parameter, _ in self._decays]
                values = torch.stack(scalars).tolist() if scalars else []
                # A Python float is a float64: the line search compares losses that differ in their last digits.
                loss: float = values.pop(0) if isinstance(value, Tensor) else value
                for (parameter, decay), square in zip(self._decays, values, strict=True):
                    loss += 0.5 * decay * square
                    parameter.grad.add_(parameter, alpha=decay)
            return loss

        return super().step(penalized)  # type: ignore[no-untyped-call]

    def _add_grad(self, step_size: float | Tensor, direction: Tensor) -> None:
        """Moves the parameters as torch does, but reads a step size on a device once, not for each parameter."""
        step_size = step_size.item() if isinstance(step_size, Tensor) else step_size
        super()._add_grad(step_size, direction)

    def state_dict(self) -> dict[str, Any]:
        """Returns torch's state without ``al``, which is scratch space within a step."""
        state: dict[str, Any] = super().state_dict()
        state["state"] = {
            index: {name: value for name, value in entries.items() if name != "al"}
            for index, entries in state["state"].items()
        }
        return state

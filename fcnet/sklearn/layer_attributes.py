"""The layers of a trained network as attributes, by scikit-learn's names and in its shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    import numpy.typing as npt

    from fcnet.models.mlp import MLP


class LayerAttributes:
    """Mixin of a classifier with a network: weights and biases of its layers, n[0], …, n[L] units wide."""

    model_: MLP

    @property
    def coefs_(self) -> list[npt.NDArray[Any]]:
        """The weights of each layer, (n[l−1], n[l]); those of the first layer are for standardized features."""
        check_is_fitted(self)
        return [layer.weight.numpy().T for layer in self.model_.dense_layers()]

    @property
    def intercepts_(self) -> list[npt.NDArray[Any]]:
        """The biases of each layer, (n[l],); the shift β of a normalized layer."""
        check_is_fitted(self)
        layers = self.model_.dense_layers()
        biases: list[Any] = [getattr(layer.normalization, "bias", layer.bias) for layer in layers]
        return [bias.numpy() for bias in biases]

    @property
    def n_layers_(self) -> int:
        """The number of layers, the input included as in scikit-learn."""
        check_is_fitted(self)
        return len(self.model_.widths)

    @property
    def n_outputs_(self) -> int:
        """The number of output nodes: 1 for two classes, else C."""
        check_is_fitted(self)
        return self.model_.widths[-1]

    @property
    def out_activation_(self) -> str:
        """The function from logits to probabilities: ``"logistic"`` for two classes, else ``"softmax"``."""
        return "logistic" if self.n_outputs_ == 1 else "softmax"

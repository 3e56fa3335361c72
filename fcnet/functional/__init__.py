"""The mathematics: pure functions of tensors, each in a form that keeps its digits.

Names, arguments, shapes, dtypes and errors are those of `torch.nn.functional`, so ``import fcnet.functional as F``
is a drop-in replacement. Every formula is written with elementary operations (exp, log1p, max, sum, where, gather).
None calls one of torch's losses, activations or softmaxes.
"""

from fcnet.functional.activations import elu, gelu, leaky_relu, logsigmoid, relu, sigmoid
from fcnet.functional.binary_cross_entropy import binary_cross_entropy_with_logits
from fcnet.functional.cdfs import cauchy_cdf, normal_cdf
from fcnet.functional.cross_entropy import cross_entropy
from fcnet.functional.distributions import cross_entropy_between, entropy, kl_divergence
from fcnet.functional.likelihood import (
    bernoulli_likelihood,
    bernoulli_log_likelihood,
    categorical_likelihood,
    categorical_log_likelihood,
)
from fcnet.functional.linear_cross_entropy import linear_cross_entropy
from fcnet.functional.margin_losses import hinge_loss, logistic_loss, quadratic_loss, sgn
from fcnet.functional.sigmoid_analysis import saturation_bound, scaled_sigmoid, sigmoid_derivative
from fcnet.functional.softmax import log_softmax, softmax

__all__ = [
    "bernoulli_likelihood",
    "bernoulli_log_likelihood",
    "binary_cross_entropy_with_logits",
    "categorical_likelihood",
    "categorical_log_likelihood",
    "cauchy_cdf",
    "cross_entropy",
    "cross_entropy_between",
    "elu",
    "entropy",
    "gelu",
    "hinge_loss",
    "kl_divergence",
    "leaky_relu",
    "linear_cross_entropy",
    "log_softmax",
    "logistic_loss",
    "logsigmoid",
    "normal_cdf",
    "quadratic_loss",
    "relu",
    "saturation_bound",
    "scaled_sigmoid",
    "sgn",
    "sigmoid",
    "sigmoid_derivative",
    "softmax",
]

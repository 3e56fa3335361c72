"""Training: `fit` and `iter_fit`, the step that it takes, and the state that a checkpoint holds."""

from fcnet.training.algorithm import GradientDescent
from fcnet.training.backpropagation import backpropagate
from fcnet.training.fit import fit, iter_fit
from fcnet.training.history import History
from fcnet.training.loop import Training, train_step
from fcnet.training.lr_finder import lr_range_test, suggest_lr
from fcnet.training.records import EpochRecord

__all__ = [
    "EpochRecord",
    "GradientDescent",
    "History",
    "Training",
    "backpropagate",
    "fit",
    "iter_fit",
    "lr_range_test",
    "suggest_lr",
    "train_step",
]

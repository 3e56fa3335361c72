"""Training: `fit`, the step that it takes, and the state that a checkpoint holds."""

from fcnet.training.algorithm import GradientDescent
from fcnet.training.backpropagation import backpropagate
from fcnet.training.loop import Training, fit, train_step
from fcnet.training.lr_finder import lr_range_test, suggest_lr
from fcnet.training.records import EpochRecord

__all__ = [
    "EpochRecord",
    "GradientDescent",
    "Training",
    "backpropagate",
    "fit",
    "lr_range_test",
    "suggest_lr",
    "train_step",
]

"""Training: the step, the loop, and the state that a checkpoint holds."""

from fcnet.training.algorithm import GradientDescent
from fcnet.training.loop import Training, fit, train_step

__all__ = ["GradientDescent", "Training", "fit", "train_step"]

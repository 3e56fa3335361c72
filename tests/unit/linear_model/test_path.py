"""Paths of logistic regressions: the minimum, the certificate, resumption."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fcnet.linear_model import Progress, fit_path, logistic_path


def problem(count=300, width=6, classes=3):
    """Returns features (N, D) and labels (N,) that overlap."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=g, dtype=torch.float64)
    y = (x @ torch.randn(width, classes, generator=g).double() + torch.randn(count, classes, generator=g)).argmax(1)
    return x, y


@pytest.mark.parametrize("classes", [2, 3])
def test_the_minimum_is_scikit_learns(classes):
    x, y = problem(classes=classes)
    path = logistic_path(x, y, [0.01, 1.0], standardize=False, tol=1e-10)
    for k, penalty in enumerate(path.Cs.tolist()):
        other = LogisticRegression(C=penalty, tol=1e-12, max_iter=10000).fit(x.numpy(), y.numpy())
        assert torch.allclose(path.coef[k], torch.from_numpy(other.coef_), atol=1e-6)


def test_an_interrupted_call_resumes_bit_for_bit():
    x, y = problem()
    states = []

    def note(progress: Progress) -> None:
        states.append(progress.state())

    whole = fit_path(x, y, [0.01, 1.0, 100.0], on_pass=note)
    for state in states[::5]:
        resumed = fit_path(x, y, [0.01, 1.0, 100.0], state=state)
        assert torch.equal(resumed.coef, whole.coef)
        assert torch.equal(resumed.iterations, whole.iterations)

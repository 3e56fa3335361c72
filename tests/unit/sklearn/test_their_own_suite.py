"""Runs scikit-learn's own tests of its two estimators with fcnet's in their place; see `their_suite`.

What does not hold is listed here with its reason. An entry that begins to hold, or fits no test any more, fails.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.sklearn.their_suite import OUTCOMES_VARIABLE

if TYPE_CHECKING:
    Table = dict[tuple[str, str], list[str]]

ROOT = Path(__file__).parents[3]
KNOWN_VERSION = "1.9"

# (outcome, reason) -> tests, each a pattern for the whole name. "not offered" is what the adapters refuse by this very
# reason; any other outcome is the beginning of the error.
LOGISTIC_REGRESSION: Table = {
    ("not offered: L1 and elastic-net penalties", "the penalty is L2, or none"): [
        r"test_LogisticRegression_elastic_net_objective\[.*",
        r"test_LogisticRegressionCV_(GridSearchCV_elastic_net|elasticnet_attribute_shapes)\[.*",
        r"test_LogisticRegressionCV_no_refit\[.*-l1_ratios1\]",
        r"test_elastic_net_(coeffs|vs_l1_l2|versus_sgd)\[.*",
        "test_l1_ratio_None_deprecated",
        r"test_liblinear_not_stuck\[.*",
        r"test_logistic_regression_cv_refit\[.*-1\]|test_logistic_regression_cv_refit\[1-.*",
        r"test_logisticregression_liblinear_sample_weight\[.*params0\]",
        r"test_logreg_l1\[.*",
        r"test_saga_vs_liblinear\[.*-1\]",
        "test_scores_attribute_layout_elasticnet",
        r"test_sample_and_class_weight_equivalence_liblinear\[.*",
    ],
    ("not offered: the deprecated argument penalty", "scikit-learn removes it"): [
        r"test_elastic_net_l1_l2_equivalence\[.*",
        r"test_elasticnet_l1_ratio_err_helpful\[.*",
        "test_l1_ratio_non_elasticnet",
        r"test_lr_penalty_l1ratio_incompatible\[.*",
        r"test_penalty_deprecated\[.*",
        r"test_penalty_none\[.*",
    ],
    ("not offered: the deprecated argument n_jobs", "scikit-learn removes it"): [
        "test_logisticregression_warns_with_n_jobs"
    ],
    ("not offered: the private function _logistic_regression_path", "it is a part of theirs"): [
        r"test_consistency_path\[.*",
        "test_logistic_regression_path_(convergence_fail|coefs_multinomial|init_coefs)",
    ],
    ("not offered: the private function _log_reg_scoring_path", "it is a part of theirs"): [
        r"test_logistic_cv_multinomial_score\[.*"
    ],
    ("not offered: the dual problem", "there is one solver, for the primal problem"): [
        r"test_liblinear_dual_random_state\[.*",
        r"test_logisticregression_liblinear_sample_weight\[.*params1\]",
    ],
    ("not offered: callbacks", "verbose prints the course of the search"): [
        r"test_logistic_regression_callback_(support|fitted_estimator)\[.*",
        "test_logistic_regression_callback_support_warning",
    ],
    ("failed: Failed: DID NOT RAISE ValueError", "our solver takes what some of their solvers refuse"): [
        r"test_check_solver_option\[.*",
        r"test_large_sparse_matrix\[csr_.*-(liblinear|sag|saga)\]",
        r"test_liblinear_multiclass_raises\[.*",
        "test_liblinear_with_large_values",
    ],
    ("failed: AssertionError: assert dtype('float32')", "float32 stays float32, which liblinear cannot"): [
        r"test_dtype_match\[.*-liblinear\]"
    ],
    ("failed: Failed: DID NOT WARN", "there is no second solver to fall back to"): [
        "test_newton_cholesky_fallback_to_lbfgs"
    ],
    ("failed: Failed: DID NOT WARN", "no default of ours is about to change"): [
        "test_logisticregressioncv_warns_with_use_legacy_attributes",
        "test_lr_scoring_warns",
    ],
    ("skipped: ", "array API namespaces, which fcnet does not take, and a case that they skip themselves"): [
        r"test_logistic_regression_array_api_(compliance|warm_start)\[.*",
        r"test_max_iter\[.*newton-cholesky.*-max_iter[123]\]",
    ],
}

NETWORK: Table = {
    ("not offered: MLPRegressor", "fcnet classifies"): [
        r"test_(?!preserve_feature_names).*\[(.*-)?MLPRegressor(-.*)?\]",
        r"test_lbfgs_regression(_maxfun)?\[.*",
        "test_(multioutput|partial_fit)_regression",
        "test_nonfinite_params",
        "test_shuffle",
        "test_mlp_(regressor_dtypes_casting|loading_from_joblib_partial_fit|diverging_loss)",
        "test_mlp_sample_weight_with_early_stopping",
        r"test_mlp_vs_poisson_glm_equivalent\[.*",
        "test_minimum_input_sample_size",
    ],
    ("not offered: a tolerance for the training loss", "fit makes all epochs of its schedule, or stops early"): [
        "test_tolerance",
        r"test_early_stopping\[MLPClassifier\]",
        "test_n_iter_no_change(_inf)?",
    ],
    ("not offered: a limit of the calls of L-BFGS", "the optimizer is AdamW"): [
        r"test_lbfgs_classification_maxfun\[.*"
    ],
    ("not offered: the learning-rate schedules of plain gradient descent", "the schedule is a cosine"): [
        "test_learning_rate_warmstart",
        "test_adaptive_learning_rate",
    ],
    ("failed: Failed: DID NOT WARN", "there is no convergence to miss: fit makes all epochs of its schedule"): [
        r"test_mlp_warm_start_no_convergence\[.*-MLPClassifier\]"
    ],
    ("failed: ValueError: y should be a 1d array", "one label an example, not several"): [
        "test_multilabel_classification",
        "test_predict_proba_multilabel",
    ],
    ("failed: AttributeError: ", "they set or call private parts of theirs"): ["test_fit", "test_gradient"],
    ("failed: AssertionError: Regex pattern did not match", "the error names the class, not its binary code"): [
        "test_early_stopping_stratified"
    ],
    ("skipped: it needs pandas", "test_base has a test without it"): [r"test_preserve_feature_names\[MLP.*"],
}


def run_suite(module: str, folder: Path) -> dict[str, str]:
    """Returns the outcome of each test of a module of scikit-learn's, by name."""
    if not version("scikit-learn").startswith(f"{KNOWN_VERSION}."):
        pytest.skip(f"the table is of scikit-learn {KNOWN_VERSION}, whose tests differ from those of other versions")
    if importlib.util.find_spec(module) is None:
        pytest.skip("this scikit-learn is installed without its tests")
    outcomes = folder / "outcomes.json"
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = os.environ | {OUTCOMES_VARIABLE: str(outcomes), "PYTHONPATH": python_path}
    for name in ("SCIPY_ARRAY_API", "SKLEARN_TESTS_GLOBAL_RANDOM_SEED", "PYTEST_ADDOPTS"):
        variables.pop(name, None)
    # Their configuration, not ours; and no test of theirs may depend on where this one runs.
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-c", os.devnull, "--rootdir", str(folder)]
    command += ["-p", "no:cacheprovider", "-p", "tests.unit.sklearn.their_suite", "--pyargs", module]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: dict[str, str] = json.loads(outcomes.read_text())
    return {name.partition("::")[2]: outcome for name, outcome in found.items()}


def compare(outcomes: dict[str, str], table: Table) -> list[str]:
    """Returns what is not as the table has it, one line each."""
    problems, used = [], set()
    for name, outcome in outcomes.items():
        entries = [
            (expected, pattern)
            for (expected, _), patterns in table.items()
            for pattern in patterns
            if re.fullmatch(pattern, name)
        ]
        used |= set(entries)
        if outcome == "passed" and entries:
            problems.append(f"{name} passes; take it off the table")
        elif outcome != "passed" and not any(outcome.startswith(expected) for expected, _ in entries):
            problems.append(f"{name}: {outcome}")
    every = {(expected, pattern) for (expected, _), patterns in table.items() for pattern in patterns}
    return problems + [f"no test fits {pattern} ({expected})" for expected, pattern in sorted(every - used)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "table"),
    [
        ("sklearn.linear_model.tests.test_logistic", LOGISTIC_REGRESSION),
        ("sklearn.neural_network.tests.test_mlp", NETWORK),
    ],
    ids=["LogisticRegression", "MLPClassifier"],
)
def test_their_tests_pass_but_for_what_the_table_explains(module: str, table: Table, tmp_path: Path) -> None:
    outcomes = run_suite(module, tmp_path)
    assert compare(outcomes, table) == []
    kinds = [outcome.partition(":")[0] for outcome in outcomes.values()]
    counts = " | ".join(str(kinds.count(kind)) for kind in ("passed", "not offered", "failed", "skipped"))
    row = f"| `{module.rpartition('.')[2]}.py` | {counts} |"
    assert row in (ROOT / "docs" / "estimators.md").read_text(encoding="utf-8")


def test_a_wrong_table_is_noticed() -> None:
    table: Table = {("not offered: a", "why"): ["test_x.*", "test_gone"], ("failed: ValueError", "why"): ["test_y"]}
    outcomes = {
        "test_x[1]": "not offered: a",
        "test_x[2]": "passed",
        "test_y": "failed: TypeError: no",
        "test_z": "passed",
    }
    assert compare(outcomes, table) == [
        "test_x[2] passes; take it off the table",
        "test_y: failed: TypeError: no",
        "no test fits test_gone (not offered: a)",
    ]
    assert compare({"test_new": "failed: ValueError: new"}, {}) == ["test_new: failed: ValueError: new"]

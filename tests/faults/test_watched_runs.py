"""A run that is watched the whole time while it is killed and resumed: neither of the two notices the other."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING

from fcnet import watch
from fcnet.experiment.run_folder import Run
from tests.faults.rounds import repeated
from tests.faults.runs import Fault, draw_changes
from tests.helpers import RUN_FILES, list_run_files, run_result
from tests.processes import call_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.faults.runs import FaultyRuns
    from tests.processes import WarmServer


def watch_closely(*arguments: str) -> None:
    """Watches without pauses, so that most readings meet a writing."""
    watch._POLL_SECONDS, watch._MAX_SHARE, watch._SETTLE_SECONDS = 0.001, 10.0, 1.0
    call_command("watch", *arguments)


@repeated(short=2, long=200)
def test_a_watched_run_that_is_killed_resumes_to_the_same_result(
    count: int, runs: FaultyRuns, warm: WarmServer, tmp_path: Path, figures: Callable[..., None]
) -> None:
    failures, kills = [], 0
    for number in range(count):
        draws = random.Random(number)
        changes, folder = draw_changes(number % min(24, count)), tmp_path / str(number)
        run, watching = folder / "run", None
        for _ in range(3):
            ended = runs.train(folder, changes, Fault(seconds=draws.uniform(0.1, runs.whole(changes).seconds)))
            kills += ended.code == -signal.SIGKILL
            if watching is None and Run(run).started and not Run(run).finished:
                watching = warm.start(
                    watch_closely,
                    str(run),
                    *draws.choice(([], ["--out", str(folder / "page.html")])),
                    folder=folder / "w",
                )
        ended = runs.train(folder, changes)
        found = [] if (ended.code, ended.err) == (0, "") else [f"train: {ended}"]
        if watching is not None:
            if found:
                watching.send_signal(signal.SIGTERM)  # it would wait for the end of the run
            seen = watching.wait()
            found += [] if (seen.code, seen.err) == (0, "") else [f"watch: {seen}"]
        found += sorted((list_run_files(run) | {"watch.html"}) ^ (RUN_FILES | {"watch.html"}))
        result, expected = run_result(run), runs.whole(changes).result
        found += [key for key in expected if result[key] != expected[key]]
        failures += [f"round {number}: {found}; {changes}"] if found else []
    figures("watched, killed and resumed", rounds=count, kills=kills, different=len(failures))
    assert failures == []
    assert kills >= count // 2

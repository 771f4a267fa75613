"""A small storm: a disturbance of each kind on each database; `make kill-test` makes a thousand."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from kill_storm import plan, storm
from storm_trials import DATABASES, KINDS

TRIALS = int(os.environ.get("GENMEDIA_STORM", str(len(KINDS) * len(DATABASES))))
SEED = int(os.environ.get("SEED", str(random.randrange(10**6))))


@pytest.mark.server
@pytest.mark.timeout(600 + 30 * TRIALS)
def test_runs_that_are_disturbed_in_any_way_are_paid_once_and_end_delivered(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("storm", f"{TRIALS} disturbances, seed {SEED}")
    report = storm(TRIALS, SEED, tmp_path, with_flows=False)
    record_property("ends", report["ends"])
    assert report["paid_twice"] == 0
    assert report["wrong_ends"] == []
    assert report["trials"] or report["skipped"]


def test_a_seed_gives_the_same_plan_with_each_kind_on_each_database() -> None:
    count = 100 * len(KINDS) * len(DATABASES)
    trials = plan(count, 7)
    assert trials == plan(count, 7)
    assert trials != plan(count, 8)
    for kind in KINDS:
        for database in DATABASES:
            assert sum((each.kind, each.database) == (kind, database) for each in trials) == 100
    of_one_job = 10 * (len(KINDS) - 1) * len(DATABASES)
    assert sum(each.through == "flow" for each in trials) == of_one_job
    assert sum(each.through == "chain" for each in trials) == of_one_job

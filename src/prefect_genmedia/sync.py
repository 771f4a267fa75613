"""The tasks and flows for synchronous code: the same names and parameters, called without `await`.

Each function runs the task or flow of its name and returns its result. In a synchronous flow every call is a task run,
or a child flow's run, as in an asynchronous one. A flow that is cancelled meanwhile leaves the card and the event
"detached" of its job. For `.submit`, `.map` and `with_options`, use the tasks themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from prefect_genmedia import generate as _generate
from prefect_genmedia import tasks as _tasks
from prefect_genmedia._prefect.synchronous import is_loop_running, is_run_async, run_sync
from prefect_genmedia.flows import batch as _batch
from prefect_genmedia.flows import bill as _bill
from prefect_genmedia.flows import chain as _chain
from prefect_genmedia.flows import decide as _decide
from prefect_genmedia.flows import generate as _generate_media
from prefect_genmedia.flows import jimeng as _jimeng
from prefect_genmedia.flows import omnihuman as _omnihuman
from prefect_genmedia.flows import poster as _poster
from prefect_genmedia.flows import prune as _prune
from prefect_genmedia.flows import reconcile as _reconcile
from prefect_genmedia.flows import spend as _spend
from prefect_genmedia.flows import stylize as _stylize
from prefect_genmedia.providers.tokenops import tasks as _subjects

__all__ = [
    "chain_media",
    "check_inputs",
    "confirm_cost",
    "decide_job",
    "detect_subjects",
    "download_result",
    "generate",
    "generate_batch",
    "generate_media",
    "import_bill",
    "jimeng_video",
    "live_poster",
    "omnihuman_video",
    "prune_jobs",
    "prune_ledger",
    "recognize_subject",
    "reconcile_jobs",
    "reconcile_ledger",
    "report_spend",
    "select_subject",
    "settle_job",
    "stylize_video",
    "submit_job",
    "wait_for_job",
]

P = ParamSpec("P")
T = TypeVar("T")


def _synchronous(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The synchronous twin of a task, a flow or an async function.

    Raises, when it is called:
        RuntimeError: the caller is an asynchronous flow or task, whose event loop it would block.
    """

    @functools.wraps(getattr(function, "fn", function))
    def twin(*args: P.args, **kwargs: P.kwargs) -> T:
        if is_loop_running() and is_run_async():
            name = twin.__name__
            raise RuntimeError(f"prefect_genmedia.sync.{name} was called in asynchronous code: await {name} instead")
        return run_sync(function(*args, **kwargs))

    twin.__module__ = __name__
    return twin


check_inputs = _synchronous(_tasks.check_inputs)
submit_job = _synchronous(_tasks.submit_job)
wait_for_job = _synchronous(_tasks.wait_for_job)
download_result = _synchronous(_tasks.download_result)
reconcile_ledger = _synchronous(_tasks.reconcile_ledger)
settle_job = _synchronous(_tasks.settle_job)
detect_subjects = _synchronous(_subjects.detect_subjects)
recognize_subject = _synchronous(_subjects.recognize_subject)
select_subject = _synchronous(_subjects.select_subject)
prune_ledger = _synchronous(_tasks.prune_ledger)
generate = _synchronous(_generate.generate)
confirm_cost = _synchronous(_generate.confirm_cost)

omnihuman_video = _synchronous(_omnihuman.omnihuman_video)
jimeng_video = _synchronous(_jimeng.jimeng_video)
live_poster = _synchronous(_poster.live_poster)
stylize_video = _synchronous(_stylize.stylize_video)
generate_media = _synchronous(_generate_media.generate_media)
chain_media = _synchronous(_chain.chain_media)
generate_batch = _synchronous(_batch.generate_batch)
reconcile_jobs = _synchronous(_reconcile.reconcile_jobs)
prune_jobs = _synchronous(_prune.prune_jobs)
decide_job = _synchronous(_decide.decide_job)
import_bill = _synchronous(_bill.import_bill)
report_spend = _synchronous(_spend.report_spend)

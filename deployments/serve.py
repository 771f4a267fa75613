"""The deployments without a work pool: one process that schedules and runs them all, until Ctrl-C.

`python -m prefect_genmedia.deployments.serve [prefect.yaml]`. Use this or a work pool, not both: the deployments have
the same names. Block documents and automations: `prefect-genmedia deploy`, once, before it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from prefect_genmedia.deploy.deployments import load_flow
from prefect_genmedia.deploy.files import DEPLOYMENTS, DeploymentSpec, PrefectFile, read_spec

RUNS_AT_ONCE = 8


def served(spec: DeploymentSpec) -> RunnerDeployment:
    """One deployment of prefect.yaml, to be served.

    Args:
        spec: the deployment; its work pool does not matter here.

    Raises:
        InvalidRequest: its flow does not load.
    """
    flow = load_flow(spec)
    limit = spec.concurrency_limit
    deployment: Any = flow.to_deployment(
        spec.name,
        description=spec.description,
        tags=spec.tags,
        parameters=spec.parameters,
        schedules=[each.to_create(each.active) for each in spec.schedules],
        concurrency_limit=ConcurrencyLimitConfig.model_validate(limit.model_dump()) if limit else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    assert isinstance(deployment, RunnerDeployment)  # a coroutine only where a loop runs
    return deployment


def main() -> None:
    """Serve what prefect.yaml declares: the shipped one, or the one that is named."""
    own = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    declared = read_spec(PrefectFile, DEPLOYMENTS, "prefect.yaml", own)
    # Schedules stay on after Ctrl-C, so that runs which were missed are shown as late and not forgotten.
    serve(*(served(spec) for spec in declared.deployments), limit=RUNS_AT_ONCE, pause_on_shutdown=False)


if __name__ == "__main__":
    main()

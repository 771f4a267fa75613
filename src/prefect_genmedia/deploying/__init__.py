"""Applying to a Prefect server what `deployments/` and `blocks/` declare: idempotent, and without showing a secret."""

from prefect_genmedia.deploying.apply import Options, apply
from prefect_genmedia.deploying.changes import Change, Outcome

__all__ = ["Change", "Options", "Outcome", "apply"]

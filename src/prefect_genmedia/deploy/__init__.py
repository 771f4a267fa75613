"""Applying to a Prefect server what `deployments/` and `blocks/` declare: idempotent, and without showing a secret."""

from prefect_genmedia.deploy.apply import Options, apply
from prefect_genmedia.deploy.changes import Change, Outcome

__all__ = ["Change", "Options", "Outcome", "apply"]

"""TokenOps: Jimeng video and OmniHuman talking avatars behind one OpenAI-like interface."""

from prefect_genmedia.providers.protocol import Provider
from prefect_genmedia.providers.registry import register
from prefect_genmedia.providers.tokenops import catalog
from prefect_genmedia.providers.tokenops.client import TokenOpsClient
from prefect_genmedia.providers.tokenops.jimeng import JimengVideo
from prefect_genmedia.providers.tokenops.omnihuman import OmniHumanVideo
from prefect_genmedia.providers.tokenops.subjects import Detection, Recognition

PROVIDER = register(
    Provider(
        name="tokenops",
        requests=(OmniHumanVideo, JimengVideo),
        job_lifetime_seconds=catalog.JOB_LIFETIME_SECONDS,
        result_lifetime_seconds=catalog.RESULT_LIFETIME_SECONDS,
        failures_are_free=True,
    )
)

__all__ = ["PROVIDER", "Detection", "JimengVideo", "OmniHumanVideo", "Recognition", "TokenOpsClient"]

"""TokenOps: Jimeng video and OmniHuman talking avatars behind one OpenAI-like interface."""

from prefect_genmedia.providers.plugin import ProviderPlugin
from prefect_genmedia.providers.tokenops import catalog
from prefect_genmedia.providers.tokenops.client import TokenOpsClient
from prefect_genmedia.providers.tokenops.jimeng import JimengVideo
from prefect_genmedia.providers.tokenops.omnihuman import OmniHumanVideo
from prefect_genmedia.providers.tokenops.resolve import resolve
from prefect_genmedia.providers.tokenops.subjects import Detection, Recognition

PLUGIN = ProviderPlugin(
    name="tokenops",
    title="TokenOps",
    requests=(OmniHumanVideo, JimengVideo),
    credentials="prefect_genmedia.providers.tokenops.block:TokenOpsCredentials",
    prices=catalog.PRICES,
    job_lifetime_seconds=catalog.JOB_LIFETIME_SECONDS,
    result_lifetime_seconds=catalog.RESULT_LIFETIME_SECONDS,
    failures_are_free=True,
    resolve=resolve,
    reconcile="prefect_genmedia.providers.tokenops.ask:answer_overdue",
    simulator="prefect_genmedia.providers.tokenops.simulator:TokenOps",
    documentation_url="https://api.tokenops.ai",
)

__all__ = ["PLUGIN", "Detection", "JimengVideo", "OmniHumanVideo", "Recognition", "TokenOpsClient"]

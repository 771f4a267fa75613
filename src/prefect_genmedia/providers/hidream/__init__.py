"""HiDream: videos redrawn in another style."""

from prefect_genmedia.providers.hidream.client import HiDreamClient
from prefect_genmedia.providers.hidream.responses import callback_job_id, callback_words
from prefect_genmedia.providers.hidream.stylize import StylizedVideo
from prefect_genmedia.providers.plugin import ProviderPlugin

PLUGIN = ProviderPlugin(
    name="hidream",
    title="HiDream",
    requests=(StylizedVideo,),
    credentials="prefect_genmedia.providers.hidream.block:HiDreamCredentials",
    callback_words=callback_words,
    callback_job_id=callback_job_id,
    callback_field="notify_url",
    chain_inputs={"stylize": "video_url"},
    simulator="prefect_genmedia.providers.hidream.simulator:HiDream",
    documentation_url="https://www.hidreamai.com/docs",
)

__all__ = ["PLUGIN", "HiDreamClient", "StylizedVideo"]

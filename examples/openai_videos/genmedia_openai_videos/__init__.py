"""The OpenAI-compatible videos API, which many gateways speak: `POST /videos`, `GET /videos/{id}`, `…/content`."""

from genmedia_openai_videos.request import OpenAIVideo
from prefect_genmedia.providers import ProviderPlugin

PLUGIN = ProviderPlugin(
    name="openai_videos",
    title="OpenAI videos",
    requests=(OpenAIVideo,),
    credentials="genmedia_openai_videos.block:OpenAIVideosCredentials",
    simulator="genmedia_openai_videos.simulator:OpenAIVideos",
    documentation_url="https://platform.openai.com/docs/api-reference/videos",
)

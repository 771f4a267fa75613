"""HiDream: videos redrawn in another style."""

from prefect_genmedia.providers.hidream.responses import callback_words
from prefect_genmedia.providers.hidream.client import HiDreamClient
from prefect_genmedia.providers.hidream.stylize import StylizedVideo
from prefect_genmedia.providers.protocol import Provider
from prefect_genmedia.providers.registry import register

PROVIDER = register(Provider(name="hidream", requests=(StylizedVideo,), callback_words=callback_words))

__all__ = ["PROVIDER", "HiDreamClient", "StylizedVideo"]

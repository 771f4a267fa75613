"""Jenius: live posters, short videos of a person in a predefined scene."""

from prefect_genmedia.providers.jenius.client import JeniusClient
from prefect_genmedia.providers.jenius.poster import LivePoster
from prefect_genmedia.providers.plugin import ProviderPlugin

PLUGIN = ProviderPlugin(
    name="jenius",
    title="Jenius",
    requests=(LivePoster,),
    credentials="prefect_genmedia.providers.jenius.block:JeniusCredentials",
    simulator="prefect_genmedia.providers.jenius.simulator:Jenius",
    documentation_url="https://www.jenius.cn",
)

__all__ = ["PLUGIN", "JeniusClient", "LivePoster"]

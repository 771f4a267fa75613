"""Jenius: live posters, short videos of a person in a predefined scene."""

from prefect_genmedia.providers.jenius.client import JeniusClient
from prefect_genmedia.providers.jenius.poster import LivePoster
from prefect_genmedia.providers.protocol import Provider
from prefect_genmedia.providers.registry import register

PROVIDER = register(Provider(name="jenius", requests=(LivePoster,)))

__all__ = ["PROVIDER", "JeniusClient", "LivePoster"]

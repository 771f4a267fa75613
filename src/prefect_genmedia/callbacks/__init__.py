"""Receiving providers' callbacks: a hint that a job is done, and never a result."""

from prefect_genmedia._core.callback_url import callback_token, callback_url
from prefect_genmedia.callbacks.app import callback_app, callback_receiver

__all__ = ["callback_app", "callback_receiver", "callback_token", "callback_url"]

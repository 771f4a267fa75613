"""Acme: clips of a picture, spoken by one of its presenters."""

from genmedia_acme.client import callback_words, resolve
from genmedia_acme.request import AcmeClip
from prefect_genmedia.providers import Price, ProviderPlugin

PLUGIN = ProviderPlugin(
    name="acme",
    title="Acme",
    requests=(AcmeClip,),
    credentials="genmedia_acme.block:AcmeCredentials",
    prices={"acme-1": Price(per_second=0.5, per_job=1.0, as_of="2026-01-01, Acme's price page")},
    job_lifetime_seconds=24 * 3600,
    result_lifetime_seconds=24 * 3600,
    failures_are_free=True,
    callback_words=callback_words,
    resolve=resolve,
    reconcile="genmedia_acme.client:service_notices",
    simulator="genmedia_acme.simulator:Acme",
    documentation_url="https://docs.acme.example/clips",
)

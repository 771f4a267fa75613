"""Acme passes the conformance suite. Run by `test_plugin_wheel.py`, where the wheel is installed."""

from genmedia_acme import AcmeClip
from prefect_genmedia.testing import NOT_AS_ASKED, ConformanceSuite, Ending, JobState, ProviderCase


class TestAcme(ConformanceSuite):
    case = ProviderCase(
        AcmeClip(picture="https://example.com/portrait.jpg", presenter="Robin"),
        endings={
            "fail_input": Ending("InputRefused", JobState.FAILED),
            "fail_output": Ending("OutputRefused", JobState.FAILED),
            "short_video": NOT_AS_ASKED,
        },
    )


def test_a_users_test_has_five_lines(genmedia_simulator, genmedia_ledger, genmedia_credentials):
    import asyncio

    async def submit():
        async with genmedia_credentials("acme").client() as client, client.turn():
            return await client.submit(AcmeClip(picture=genmedia_simulator.portrait_url))

    assert asyncio.run(submit()).status == "waiting"
    assert genmedia_simulator.accepted == 1
    assert genmedia_ledger.jobs() == []

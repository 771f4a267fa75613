"""Acme passes the conformance suite. Run by `test_plugin_wheel.py`, where the wheel is installed."""

import asyncio

import pytest
from prefect.testing.utilities import prefect_test_harness

from genmedia_acme import AcmeClip
from prefect_genmedia.callbacks.app import _words
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.flows.generate import generate_media
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


@pytest.fixture(scope="module")
def prefect_server():
    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.mark.usefixtures("prefect_server")
def test_a_users_test_has_five_lines(genmedia_simulator, genmedia_ledger, genmedia_credentials):
    genmedia_simulator.order("content_truncated")
    fields = {"picture": genmedia_simulator.portrait_url}
    asyncio.run(generate_media("clip", fields, genmedia_credentials("acme")))
    assert genmedia_simulator.accepted == 1
    assert [job.state.value for job in genmedia_ledger.jobs()] == ["delivered"]


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("kind", "fields", "problems"),
    [
        ("clap", {}, {"kind"}),
        ("clip", {"mood": "odd", "colour": "red"}, {"picture", "mood", "colour"}),
        ("clip", {"picture": "https://example.com/1.jpg", "presenter": "Nobody"}, {"presenter"}),
    ],
    ids=["unknown kind", "wrong fields", "refused by resolve"],
)
def test_every_problem_of_a_request_is_named_before_anything_is_sent(
    kind, fields, problems, genmedia_simulator, genmedia_ledger, genmedia_credentials
):
    with pytest.raises(InvalidRequest) as caught:
        asyncio.run(generate_media(kind, fields, genmedia_credentials("acme"), preflight=False))
    assert {problem.field for problem in caught.value.problems} == problems
    assert genmedia_simulator.accepted == 0


def test_a_callback_that_is_not_understood_has_no_words():
    assert _words("acme", b'{"clip": {"state": "ready"}}') == "ready"
    assert _words("acme", b"[]") == _words("acme", b"{}") == ""

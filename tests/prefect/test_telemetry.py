"""Metrics and spans: every transition of the ledger is there, nothing secret is, and no SDK is needed."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import ROOT
from jobs import asking, session, submit_once
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import Counter as CounterInstrument
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from prefect_genmedia import TokenOpsCredentials
from prefect_genmedia._core import Job, JobSpec, JobState, Ledger, pipeline
from prefect_genmedia._core import telemetry as module
from prefect_genmedia._core.accepted import record_accepted
from prefect_genmedia._core.account_admin import pause_account
from prefect_genmedia._core.accounts import resolve_account
from prefect_genmedia._core.clock import SYSTEM_CLOCK
from prefect_genmedia._core.decide import decide
from prefect_genmedia._core.figures import publish_figures
from prefect_genmedia._core.model import LEGAL_MOVES
from prefect_genmedia.errors import GenMediaError, InputRefused, SubmissionUnknown
from prefect_genmedia.providers.protocol import Accepted
from prefect_genmedia.providers.tokenops import JimengVideo
from prefect_genmedia.simulator import RunningSimulator

PROMPT = "a lake at dawn, for the launch of project Nightingale"
REQUEST = JimengVideo(prompt=PROMPT, model="jimeng-video-3.0-720P")

READER = InMemoryMetricReader(
    {CounterInstrument: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
)
EXPORTER = InMemorySpanExporter()


@dataclass
class Recorder:
    """What was recorded since the last look."""

    def points(self) -> dict[str, list[tuple[dict[str, Any], float]]]:
        """Each metric's data points: attributes, and value or count."""
        found: dict[str, list[tuple[dict[str, Any], float]]] = {}
        data = READER.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if scope.scope.name == "prefect_genmedia":
                        values = [
                            (dict(p.attributes or {}), getattr(p, "value", None)) for p in metric.data.data_points
                        ]
                        counts = [getattr(p, "count", 0) for p in metric.data.data_points]
                        found[metric.name] = [
                            (about, count if value is None else value)
                            for (about, value), count in zip(values, counts, strict=True)
                        ]
        return found

    def moves(self) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for about, value in self.points().get("genmedia.job.transitions", ()):
            found[about["genmedia.from"], about["genmedia.to"]] += int(value)
        return found

    def spans(self) -> list[Any]:
        return [span for span in EXPORTER.get_finished_spans() if span.instrumentation_scope.name == "prefect_genmedia"]


@pytest.fixture(scope="module", autouse=True)
def providers() -> None:
    """Set as an application sets them, once in a process."""
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(tracing)
    metrics.set_meter_provider(MeterProvider([READER]))


@pytest.fixture
def recorded() -> Iterator[Recorder]:
    EXPORTER.clear()
    module._latest.clear()
    READER.get_metrics_data()
    yield Recorder()
    module._latest.clear()


def job_in(state: JobState, **fields: Any) -> Job:
    known = {"provider": "tokenops", "kind": "jimeng", "model": "jimeng-video-3.0-720P", "identity": "a" * 64}
    return Job(key="", state=state, **(known | fields))


# --- every transition ---

MOVES = sorted((a.value, b.value) for a, goals in LEGAL_MOVES.items() for b in goals)


@pytest.mark.parametrize(("before", "after"), MOVES)
async def test_every_legal_move_is_a_metric_and_an_event_of_the_span(
    before: str, after: str, ledger: Ledger, recorded: Recorder
) -> None:
    job = await ledger.reserve(job_in(JobState(before)))
    assert recorded.moves() == {("none", before): 1}
    with trace.get_tracer("prefect_genmedia").start_as_current_span("a run"):
        if (before, after) == ("reserved", "sending"):
            moved: Any = await ledger.start_sending(job, None)
        elif (before, after) == ("sending", "reserved"):
            moved = await ledger.unsend(job)
        else:
            moved = await ledger.move(job, JobState(after), error_kind="GenerationFailed")
    assert moved.state.value == after
    assert recorded.moves() == {(before, after): 1}
    (event,) = recorded.spans()[-1].events
    assert event.name == "genmedia.job.transition"
    assert (event.attributes["genmedia.from"], event.attributes["genmedia.to"]) == (before, after)
    assert event.attributes["genmedia.job.key"] == job.key


async def test_a_move_that_another_process_made_before_is_not_counted_again(ledger: Ledger, recorded: Recorder) -> None:
    job = await ledger.reserve(job_in(JobState.SUBMITTED))
    both = await asyncio.gather(ledger.move(job, JobState.SUCCEEDED), ledger.move(job, JobState.SUCCEEDED))
    assert sorted(each is None for each in both) == [False, True]
    await ledger.reserve(job)
    assert recorded.moves() == {("none", "submitted"): 1, ("submitted", "succeeded"): 1}


async def test_a_persons_decisions_are_transitions(
    ledger: Ledger, credentials: TokenOpsCredentials, simulator: RunningSimulator, recorded: Recorder
) -> None:
    async with credentials.client() as client:
        simulator.order("accept_then_drop")
        with pytest.raises(SubmissionUnknown) as caught:
            await submit_once(ledger, client, REQUEST, scope="decided")
        key, (arrived,) = caught.value.job_key or "", simulator.world.jobs
        for decision in ("abandon", "undo", "resubmit", "undo"):
            await decide(ledger, key, decision)  # type: ignore[arg-type]
        await decide(ledger, key, "adopt", arrived, client_for=asking(client))
    assert recorded.moves() == {
        ("none", "reserved"): 1,
        ("reserved", "sending"): 1,
        ("sending", "unknown"): 1,
        ("unknown", "abandoned"): 1,
        ("abandoned", "unknown"): 1,
        ("unknown", "rejected"): 1,
        ("rejected", "unknown"): 1,
        ("unknown", "submitted"): 1,
    }


async def test_an_answer_that_comes_after_a_decision_is_a_transition(ledger: Ledger, recorded: Recorder) -> None:
    sent = await ledger.start_sending(await ledger.reserve(job_in(JobState.RESERVED)), None)
    assert isinstance(sent, Job)
    lost = await ledger.move(sent, JobState.UNKNOWN)
    assert lost is not None
    await record_accepted(ledger, sent, Accepted("late-1", "queued"), SYSTEM_CLOCK)
    assert recorded.moves()["unknown", "submitted"] == 1


async def test_what_a_transaction_takes_back_is_not_counted(ledger: Ledger, recorded: Recorder) -> None:
    job = await ledger.reserve(job_in(JobState.UNKNOWN))

    def work(connection: Any) -> None:
        module.note(connection, JobState.UNKNOWN, job.model_copy(update={"state": JobState.ABANDONED}))
        raise InputRefused("no")

    with pytest.raises(InputRefused):
        await ledger.transact(work)
    assert recorded.moves() == {("none", "unknown"): 1}


# --- a job from submission to delivery ---


async def test_a_delivered_job_has_spans_outcomes_durations_and_spend(
    ledger: Ledger, credentials: TokenOpsCredentials, tmp_path: Path, recorded: Recorder
) -> None:
    async with credentials.client() as client:
        spec = JobSpec(REQUEST, scope="whole", output=str(tmp_path / "media"))
        account = session(ledger, client)
        done = await pipeline.run_job(account, spec)
        await pipeline.submit(account, spec)
    points = recorded.points()
    assert [about["genmedia.outcome"] for about, _ in points["genmedia.submissions"]] == ["accepted"]
    assert [about["genmedia.outcome"] for about, _ in points["genmedia.job.outcomes"]] == ["delivered"]
    assert sorted(about["genmedia.stage"] for about, _ in points["genmedia.job.stage.duration"]) == [
        "delivery",
        "generation",
        "queue",
    ]
    assert points["genmedia.job.time_to_deliver"][0][1] == 1
    assert points["genmedia.poll.lag"][0][1] >= 1
    assert points["genmedia.job.joins"][0][1] == 1
    assert points["genmedia.spend"][0][1] == pytest.approx(float(done.estimated_cost or 0))
    assert done.estimated_cost
    spans = {span.name: span for span in recorded.spans()}
    assert set(spans) == {"genmedia.submit", "genmedia.wait", "genmedia.deliver"}
    assert spans["genmedia.deliver"].attributes["genmedia.job.key"] == done.key
    assert spans["genmedia.deliver"].attributes["genmedia.state"] == "delivered"


async def test_a_meter_that_fails_changes_nothing_about_the_job(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        def add(self, *_: Any) -> None:
            raise RuntimeError("no such exporter")

    monkeypatch.setattr(module, "_transitions", Failing())
    job = await ledger.reserve(Job(key="", identity="x", provider="tokenops"))
    sending = await ledger.start_sending(job, None)
    assert isinstance(sending, Job)
    accepted = await ledger.move(sending, JobState.SUBMITTED, provider_job_id="1")
    assert accepted is not None
    assert accepted.state is JobState.SUBMITTED
    assert "A metric was not recorded: RuntimeError" in caplog.text


async def test_a_step_that_fails_records_the_kind_of_its_error_alone(
    ledger: Ledger, credentials: TokenOpsCredentials, simulator: RunningSimulator, recorded: Recorder
) -> None:
    simulator.order("refuse_invalid")
    async with credentials.client() as client:
        with pytest.raises(GenMediaError) as caught:
            await pipeline.submit(session(ledger, client), JobSpec(REQUEST, scope="refused"))
    (span,) = recorded.spans()
    assert span.status.status_code.name == "ERROR"
    assert span.attributes["error.type"] == caught.value.kind
    assert span.status.description is None
    assert {event.name for event in span.events} == {"genmedia.job.transition"}


# --- what must not be there ---


def everything(recorded: Recorder) -> str:
    """Each name and value of each attribute, and all texts of each span."""
    spans = [span.to_json() for span in recorded.spans()]
    return json.dumps([recorded.points(), spans], default=str)


async def test_no_key_prompt_or_url_is_in_any_attribute(
    ledger: Ledger, credentials: TokenOpsCredentials, simulator: RunningSimulator, tmp_path: Path, recorded: Recorder
) -> None:
    signed = "https://bucket.example.com/a.png?X-Amz-Signature=0123456789abcdef"
    hostile = job_in(
        JobState.SENDING,
        provider=signed,
        kind=PROMPT,
        model=f"m {simulator.key}",
        account=f"tokenops:{simulator.key}",
        label=PROMPT,
        request={"prompt": PROMPT, "image_url": signed},
        output=signed,
    )
    async with credentials.client() as client:
        account = session(ledger, client)
        await pipeline.run_job(account, JobSpec(REQUEST, scope="secret", label=PROMPT, output=str(tmp_path / "m")))
        simulator.order("fail_internal")
        with pytest.raises(GenMediaError):
            await pipeline.run_job(
                account, JobSpec(REQUEST, scope="secret-2", label=PROMPT, output=str(tmp_path / "m"))
            )
        await resolve_account(ledger, client.account, "customer-a")
    job = await ledger.reserve(hostile)
    await ledger.move(job, JobState.UNKNOWN, error_kind=signed, error_message=f"{PROMPT} {signed} {simulator.key}")
    await publish_figures(ledger)
    text = everything(recorded)
    assert "jimeng-video-3.0-720P" in text
    for secret in (simulator.key, PROMPT, "Nightingale", "http", "Signature", str(tmp_path), "customer-a"):
        assert secret not in text, secret


@pytest.mark.parametrize(
    "text", ["", None, "two words", "https://a.b/c?d=e", "//host/x", "a" * 65, "id?sig=1", "名字", "line\nbreak"]
)
def test_only_plain_names_are_attributes(text: str | None) -> None:
    assert module.plain_name(text) == "other"


# --- gauges ---


async def test_gauges_show_what_the_ledger_holds(
    ledger: Ledger, credentials: TokenOpsCredentials, recorded: Recorder
) -> None:
    now = ledger.now()
    for number, state in enumerate((JobState.SUBMITTED, JobState.SUCCEEDED, JobState.UNKNOWN, JobState.DELIVERED)):
        times = {"submitted_at": now - 100.0 * (number + 1), "expires_at": now + 1000.0 * (number + 1)}
        job = await ledger.reserve(job_in(state, identity=str(number) * 64))
        await ledger.note(job, **times)
    async with credentials.client() as client:
        await resolve_account(ledger, client.account, "default")
    await publish_figures(ledger)
    points = recorded.points()
    jobs = {about["genmedia.state"]: value for about, value in points["genmedia.jobs"]}
    assert jobs == {"submitted": 1, "succeeded": 1, "unknown": 1, "reserved": 0, "sending": 0}
    assert points["genmedia.jobs.oldest_undelivered.age"][0][1] == pytest.approx(200, abs=60)
    assert points["genmedia.jobs.next_expiry"][0][1] == pytest.approx(1000, abs=60)
    assert points["genmedia.accounts.paused"] == [({"genmedia.provider": "tokenops"}, 0)]
    assert points["genmedia.figures.age"][0][1] < 60
    await pause_account(ledger, "default", by="me", reason="leaked")
    await publish_figures(ledger)
    assert recorded.points()["genmedia.accounts.paused"] == [({"genmedia.provider": "tokenops"}, 1)]


async def test_without_jobs_no_age_and_no_expiry_is_shown(ledger: Ledger, recorded: Recorder) -> None:
    await publish_figures(ledger)
    points = recorded.points()
    assert points.get("genmedia.jobs.oldest_undelivered.age", []) == []
    assert points.get("genmedia.jobs.next_expiry", []) == []


# --- without an SDK ---


def test_without_an_sdk_nothing_is_recorded_and_nothing_is_imported() -> None:
    code = (
        "import sys, prefect_genmedia._core.telemetry as t; from prefect_genmedia._core import Job, JobState; "
        "job = Job(key='k', identity='i', provider='p', state=JobState.SENDING); "
        "print(t.changed(JobState.RESERVED, job) is job, t.trace.get_current_span().is_recording(), "
        "[m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split("\n")[0] == "True False []"


# --- the documents, the dashboard and the alerts name what there is ---

INSTRUMENTS = set(re.findall(r'"(genmedia\.[a-z_.]+)",', Path(module.__file__).read_text("utf-8")))
TELEMETRY_PAGE = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
OBSERVABILITY = ROOT / "deployments" / "observability"


def test_the_instruments_are_the_documented_ones() -> None:
    metric_names = {name for name in INSTRUMENTS if not name.startswith("genmedia.job.key")}
    documented = set(re.findall(r"^\| `(genmedia\.[a-z_.]+)` \|", TELEMETRY_PAGE, re.MULTILINE))
    spans = {"genmedia.submit", "genmedia.wait", "genmedia.deliver"}
    events = {"genmedia.job.transition", "genmedia.job.join"}
    assert documented - spans - events == metric_names - events


def prometheus_names() -> set[str]:
    """As Prometheus calls the instruments: by OpenTelemetry's rules."""
    source = Path(module.__file__).read_text("utf-8")
    found = set()
    for kind, name, unit in re.findall(r'create_(counter|histogram)\(\s*"([^"]+)",\s*"([^"]+)"', source):
        base = name.replace(".", "_") + ("_seconds" if unit == "s" else "")
        found |= {f"{base}_total"} if kind == "counter" else {f"{base}_{part}" for part in ("bucket", "sum", "count")}
    for name, unit in re.findall(r'_gauge\(\s*"([^"]+)",\s*"([^"]+)"', source):
        found.add(name.replace(".", "_") + ("_seconds" if unit == "s" else ""))
    return found


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_exist() -> None:
    dashboard = json.loads((OBSERVABILITY / "grafana-dashboard.json").read_text("utf-8"))
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text("utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    used = {name for query in queries for name in re.findall(r"\bgenmedia_[a-z_]+", query)}
    labels = {
        "genmedia_" + name
        for name in "provider kind model from to outcome stage state account cap unit currency".split()
    }
    assert used - labels <= prometheus_names()
    unused = {name for name in prometheus_names() - used if not name.endswith(("_sum", "_count"))}
    assert unused == set(), "a metric that nobody looks at"


def test_each_alert_says_what_to_do() -> None:
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text("utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert {"summary", "description"} <= rule["annotations"].keys(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")

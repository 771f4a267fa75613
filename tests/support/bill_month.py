"""A month of one account: a thousand jobs in a ledger, the provider's bill for them, and what is wrong with it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from prefect_genmedia._core import Job, JobState, Ledger
from prefect_genmedia._core.statements import columns_of
from prefect_genmedia.prices import in_micros

ZONE = ZoneInfo("Asia/Shanghai")
BEGIN = datetime(2026, 11, 1, tzinfo=ZONE).timestamp()
END = datetime(2026, 12, 1, tzinfo=ZONE).timestamp()
DAY = 86400.0
JOBS = 1000
OF_EACH = 10
PRICES = {"jimeng-video-3.0-720P": "1.40", "jimeng-video-3.0-pro": "5.00", "jimeng-video-3.0-1080P": "3.15"}
ACCOUNT = "tokenops:0a1b2c3d@https://api.tokenops.ai/v1"
OTHER = "tokenops:ffffffff@https://api.tokenops.ai/v1"

HEADERS = {
    "id": "任务ID",
    "request": "请求ID",
    "time": "计费时间",
    "amount": "金额（元）",
    "model": "模型",
    "type": "交易类型",
}
MAPPING = """
provider = "tokenops"
[columns]
job_id = "任务ID"
request_id = "请求ID"
time = "计费时间"
amount = "金额（元）"
model = "模型"
words = ["交易类型", "模型"]
[amounts]
currency = "CNY"
[times]
zone = "Asia/Shanghai"
[skip]
"交易类型" = ["充值", "合计"]
"""


@dataclass
class Month:
    """The jobs, the bill's rows, and by kind the ids of what must be found."""

    jobs: list[Job] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    planted: dict[str, set[str]] = field(default_factory=dict)
    cents: dict[str, int] = field(default_factory=dict)
    """What must be claimed, by kind; `bill` is the whole bill."""

    def bill(self, job: Job, amount: str, *, kind: str = "消费", hours: float = 0.0, by_request: bool = False) -> None:
        at = (job.submitted_at or 0.0) + hours * 3600
        self.rows.append(
            {
                HEADERS["id"]: "" if by_request else str(job.provider_job_id),
                HEADERS["request"]: str((job.evidence or {}).get("request_id", "")),
                HEADERS["time"]: f"{datetime.fromtimestamp(at, ZONE):%Y/%m/%d %H:%M:%S}",
                HEADERS["amount"]: amount,
                HEADERS["model"]: job.model,
                HEADERS["type"]: kind,
            }
        )
        self.cents["bill"] = self.cents.get("bill", 0) + int(Decimal(amount) * 100)

    def plant(self, kind: str, job: Job, claim: int) -> None:
        self.planted.setdefault(kind, set()).add(str(job.provider_job_id))
        self.cents[kind] = self.cents.get(kind, 0) + claim


def job_at(number: int, at: float, **changes: Any) -> Job:
    """A delivered job of the account; three models in turn."""
    model = list(PRICES)[number % len(PRICES)]
    values: dict[str, Any] = {
        "key": f"{number:012x}",
        "identity": f"{number:064x}",
        "provider": "tokenops",
        "account": ACCOUNT,
        "kind": "jimeng",
        "model": model,
        "state": JobState.DELIVERED,
        "provider_job_id": f"2026{number:016d}",
        "provider_status": "completed",
        "created_at": at,
        "sent_at": at,
        "submitted_at": at + 1,
        "succeeded_at": at + 60,
        "delivered_at": at + 90,
        "updated_at": at + 90,
        "cost_micros": in_micros(Decimal(PRICES[model])),
        "estimated_cost": float(PRICES[model]),
        "currency": "CNY",
        "evidence": {"x-request-id": f"hdr-{number}", "request_id": f"req-{number}", "created_at": "1"},
        "project": ("spring", "autumn", None)[number % 3],
        "tags": ["a", "b"] if number % 2 else None,
    }
    return Job.model_validate(values | changes)


FAILED = {
    "state": JobState.FAILED,
    "error_kind": "GenerationFailed",
    "error_message": "Internal error, please retry",
    "error_code": "50500",
    "provider_status": "failed",
    "delivered_at": None,
}


def month() -> Month:
    """A thousand jobs and their bill: ten faults of each kind, and what only looks like a fault."""
    made, dice = Month(), random.Random(20261127)
    count = JOBS + OF_EACH  # so many are on the bill and not in the ledger
    times = sorted(BEGIN + DAY + dice.random() * (END - BEGIN - 2 * DAY) for _ in range(count))
    numbers = list(range(count))
    dice.shuffle(numbers)
    take = iter(numbers)
    kind_of = {next(take): kind for kind in KINDS for _ in range(OF_EACH)}
    for number, at in enumerate(times):
        kind = kind_of.get(number, "right")
        job = job_at(number, at, **(FAILED if "failure" in kind else {}))
        made.jobs.append(job)
        FAULTS[kind](made, job, PRICES[job.model])
    dice.shuffle(made.rows)
    made.jobs += list(_of_others())
    top_up = {HEADERS["type"]: "充值", HEADERS["amount"]: "10000.00", HEADERS["time"]: "2026/11/02 08:00:00"}
    total = {HEADERS["type"]: "合计", HEADERS["amount"]: str(made.cents["bill"] / 100)}
    made.rows = [top_up, *made.rows, total]
    return made


def _unknown(made: Month, job: Job, price: str) -> None:
    made.jobs.pop()
    made.bill(job, price)
    made.plant("unknown_here", job, cents(price))


def _failure(made: Month, job: Job, price: str) -> None:
    made.bill(job, price)
    made.plant("billed_failure", job, cents(price))


def _dearer(made: Month, job: Job, price: str) -> None:
    more = int(job.key, 16) % 7 + 1
    made.bill(job, f"{Decimal(price) + Decimal(more) / 100}")
    made.plant("price_difference", job, more)


def _cheaper(made: Month, job: Job, price: str) -> None:
    made.bill(job, f"{Decimal(price) - Decimal('0.05')}")
    made.plant("price_difference", job, 0)


def _duplicate(made: Month, job: Job, price: str) -> None:
    made.bill(job, price)
    made.bill(job, price, hours=5)
    made.plant("duplicate", job, cents(price))


def _refunded(made: Month, job: Job, price: str) -> None:
    made.bill(job, price)
    made.bill(job, f"-{price}", kind="退款", hours=1)


def cents(price: str) -> int:
    return int(Decimal(price) * 100)


FAULTS: dict[str, Callable[[Month, Job, str], None]] = {
    "unknown_here": _unknown,
    "not_billed": lambda made, job, price: made.plant("not_billed", job, 0),
    "billed_failure": _failure,
    "dearer": _dearer,
    "cheaper": _cheaper,
    "duplicate": _duplicate,
    # What only looks like a fault:
    "free_failure": lambda made, job, price: None,
    "refunded_failure": _refunded,
    "by_request": lambda made, job, price: made.bill(job, price, by_request=True),
    "right": lambda made, job, price: made.bill(job, price),
}
KINDS = tuple(FAULTS)[:-1]


def _of_others() -> Iterator[Job]:
    """What no line of this bill is about, although it was delivered in this month, or nearly so."""
    for number in range(2000, 2010):
        yield job_at(number, BEGIN + 5 * DAY, account=OTHER)
    for number in range(2010, 2020):
        yield job_at(number, BEGIN + 5 * DAY, provider="jenius", account="jenius:0a1b2c3d@https://www.jenius.cn")
    yield job_at(2020, BEGIN - 30)  # it was accepted in October, and made in November
    yield job_at(2021, END - 30)
    yield job_at(2022, BEGIN + 6 * DAY, state=JobState.SUBMITTED, delivered_at=None, succeeded_at=None)
    yield job_at(2023, BEGIN + 6 * DAY, state=JobState.RESERVED, provider_job_id=None, sent_at=None)


async def put(ledger: Ledger, jobs: list[Job]) -> None:
    """Write jobs into a ledger as they are."""
    from prefect_genmedia._core import schema

    def write(connection: Connection) -> None:
        connection.execute(schema.jobs.insert(), [columns_of(job) for job in jobs])

    if jobs:
        await ledger.transact(write)

"""What the codes and words of an error mean at every provider and gateway: money, routing, a job that is not known.

Codes are read from code fields. Free text decides only what costs nothing if it is wrong, or what the code fields say
as well: a request id may hold any number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUOTA_CODE = re.compile(
    r"(insufficient|not_enough|no|low|lack_of|out_of)_(\w+_)?(quota|balance|credits?|funds?|points?|money|tokens_left)"
    r"|(quota|balance|credits?|points?|billing|spend\w*)_(\w+_)?"
    r"(insufficient|not_enough|exhausted|exceeded|failed|depleted|overdue|arrears|empty|used_up|hard_limit_reached)"
    r"|billing_hard_limit_reached|billing_not_active|account_overdue\w*|arrearage|arrears|payment_required|overdue\w*"
)
_OWN_QUOTA_CODE = re.compile(r"insufficient_user_quota|pre_consume_token_quota_failed")
"""A gateway's codes for a check that it makes before it forwards anything."""

_QUOTA_WORDS = re.compile(
    r"额度|欠费|(余额|积分|点数|配额|算力|资源包|次数)\s*.{0,6}(不足|不够|用尽|用完|耗尽|为0|超)"
    r"|insufficient\s+(\w+\s+){0,2}(quota|balance|credits?|funds?|points?)"
    r"|(not\s+enough|out\s+of)\s+(\w+\s+){0,2}(quota|balance|credits?|funds?|points?)\b"
    r"|(quota|balance|credits?|funds?|points?)\s+(\w+\s+){0,4}(insufficient|not\s+enough|exhausted|exceeded|depleted)"
    r"|exceeded\s+your\s+(\w+\s+){0,2}quota|account\s+(is\s+)?(overdue|in\s+arrears)",
    re.IGNORECASE,
)
_RATE_CODE = re.compile(
    r"rate_limit\w*|too_many_requests|throttl\w*|requests_per_\w+|rpm\w*|tpm\w*|qps\w*|concurren\w*"
)
_RATE_WORDS = re.compile(
    r"per[\s_-]+(minute|second|hour|day)|/\s*(min|sec|s)\b|rate[\s_-]*limit|too many requests|\b(rpm|tpm|qps)\b"
    r"|频率|频繁|每分钟|每秒|每小时|并发|限流|concurren",
    re.IGNORECASE,
)
_NO_CHANNEL = re.compile(r"no\s+(available\s+)?channels?|无可用渠道|没有可用(的)?渠道|无可用的渠道", re.IGNORECASE)
_CHANNEL = re.compile(r"channel|渠道|distributor", re.IGNORECASE)
_RETRY = re.compile(r"retry|retri|重试", re.IGNORECASE)
_MISSING_CODE = re.compile(
    r"(task|job|video|generation|record|resource|object)s?_(\w+_)?(not_exists?|not_found|notfound|missing|unknown)"
    r"|(no_such|unknown|nonexistent)_(task|job|video|generation|record)|not_found"
)
_MISSING_WORDS = re.compile(
    r"(task|job|video|generation)s?(\s+\S+)?\s+(does\s+not|doesn't|not)\s+(exists?|found)|(task|job|video)_not_exist"
    r"|no\s+such\s+(task|job|video)|(任务|作业|视频)\s*\S{0,40}\s*(不存在|未找到|找不到)|(找不到|未找到|没有找到)(该)?(任务|视频)",
    re.IGNORECASE,
)
_NOT_READY = re.compile(
    r"not[\s_-]*(yet|ready|completed?|finished|available|done)|still\s+(processing|running|generating)|in[\s_]progress"
    r"|unfinished|processing|尚未|未完成|未就绪|生成中|处理中",
    re.IGNORECASE,
)
_LATE = re.compile(r"time[\s_-]*out|timed[\s_-]*out|deadline|超时", re.IGNORECASE)


def snake(code: str) -> str:
    """A code in lower case with `_` between its parts, however it is written: `InsufficientBalance`, `TASK-NOT-EXIST`.

    Args:
        code: the code.
    """
    own = re.split(r"[:/]", code)[-1]  # `local:insufficient_quota`
    return re.sub(r"[\s.\-]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", own)).lower()


def is_of_money(codes: Sequence[str], words: str, http_status: int) -> bool:
    """Whether balance, quota or points are used up.

    Args:
        codes: the answer's codes.
        words: its text.
        http_status: of a server's own failure only a gateway's own codes are believed.
    """
    own = any(_OWN_QUOTA_CODE.fullmatch(snake(code)) for code in codes)
    if own or http_status >= 500:
        return own
    if _RATE_WORDS.search(words):  # a quota of requests in a minute passes with time
        return any(re.fullmatch(r"insufficient_\w+", snake(code)) for code in codes)
    return any(_QUOTA_CODE.fullmatch(snake(code)) for code in codes) or bool(_QUOTA_WORDS.search(words))


def is_of_rate(codes: Sequence[str]) -> bool:
    """Whether the provider asks to slow down.

    Args:
        codes: the answer's codes.
    """
    return any(code == "429" or _RATE_CODE.fullmatch(snake(code)) for code in codes)


def is_unrouted(codes: Sequence[str], words: str) -> bool:
    """Whether a gateway found no channel for the model, before it forwarded anything.

    Args:
        codes: the answer's codes.
        words: its text.
    """
    named = any(snake(code) == "model_not_found" for code in codes)
    return named and bool(_NO_CHANNEL.search(words)) and not was_retried(codes, words)


def was_retried(codes: Sequence[str], words: str) -> bool:
    """Whether a gateway found no other channel after it had forwarded the request: the first one may have taken it.

    Args:
        codes: the answer's codes.
        words: its text.
    """
    if any(snake(code) == "get_channel_failed" for code in codes) or "get_channel_failed" in words:
        return True
    about_channels = bool(_CHANNEL.search(words)) or any("channel" in code.lower() for code in codes)
    named = any(snake(code) == "model_not_found" for code in codes)
    return (about_channels or named) and bool(_RETRY.search(" ".join((words, *codes))))


def is_of_missing_job(codes: Sequence[str], words: str) -> bool:
    """Whether the provider does not know the job.

    Args:
        codes: the answer's codes.
        words: its text.
    """
    return any(_MISSING_CODE.fullmatch(snake(code)) for code in codes) or bool(_MISSING_WORDS.search(words))


def is_not_ready(codes: Sequence[str], words: str) -> bool:
    """Whether the file is not there yet.

    Args:
        codes: the answer's codes.
        words: its text.
    """
    return bool(_NOT_READY.search(" ".join((words, *map(snake, codes)))))


def is_late(codes: Sequence[str], words: str) -> bool:
    """Whether something behind the gateway took too long: it may have taken the job.

    Args:
        codes: the answer's codes.
        words: its text.
    """
    return bool(_LATE.search(" ".join((words, *codes))))

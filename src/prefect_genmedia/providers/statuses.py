"""A provider's words for a job's state, and what is made of words that its documents do not have."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, replace
from typing import Any

from prefect_genmedia.providers.protocol import Observation, Phase
from prefect_genmedia.text import clean_word

_SUCCESS = frozenset(
    "success successful successfully succeed succeeds succeeded complete completed completes done finish finished "
    "ready available generated delivered published".split()
)
_FAILURE = frozenset(
    "fail fails failed failing failure failures error errors errored reject rejected rejects refused denied declined "
    "timeout timedout timeouted cancel canceled cancelled cancellation abort aborted expired blocked banned violated "
    "terminated killed crashed broken dead invalid exception unsuccessful revoked dropped lost".split()
)
_UNDERWAY = frozenset(
    "not no non un in pending queued queue queueing waiting wait processing process running progress retry retrying "
    "retried partial partially almost nearly checking uploading starting start started preparing if until before "
    "unknown soon".split()
)
"""Words beside which the others say nothing about the end: `NOT_READY`, `retrying after failure`."""

_CHINESE_SUCCESS = ("成功", "已完成", "完成", "已生成", "就绪")
_CHINESE_FAILURE = ("失败", "拒绝", "超时", "异常", "取消", "过期", "错误", "违规", "中止", "终止", "不通过", "未通过")
_CHINESE_UNDERWAY = ("中", "未完成", "未就绪", "等待", "重试", "待", "即将", "未成功", "未失败", "排队")

_MOST_WORDS = 4
"""A status of more words than this is a sentence, and is not judged."""


@dataclass(frozen=True)
class StatusWords:
    """A provider's documented words for a job's state, in lower case, with `_` between their parts.

    Args:
        queued: nobody works on the job yet.
        running: it is being made.
        succeeded: there is a file.
        failed: the provider gave up.
    """

    queued: frozenset[str]
    running: frozenset[str]
    succeeded: frozenset[str]
    failed: frozenset[str]

    def phase(self, status: Any) -> tuple[Phase, bool]:
        """Where a job is, and whether the provider's documents have the word.

        Args:
            status: the word, in any case; anything else than text and numbers is still running.
        """
        word = re.sub(r"[\s-]+", "_", clean_word(status).lower())
        known = {
            Phase.QUEUED: self.queued,
            Phase.RUNNING: self.running,
            Phase.SUCCEEDED: self.succeeded,
            Phase.FAILED: self.failed,
        }
        for phase, words in known.items():
            if word in words:
                return phase, True
        return likely_phase(word) or Phase.RUNNING, False


def likely_phase(status: str) -> Phase | None:
    """The end that a word outside of a provider's documents probably means; None where it probably means none.

    What is made of it is decided by the wait: a likely success counts once the file can be fetched, a likely failure
    ends the run only.

    Args:
        status: the provider's word.
    """
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", status)
    words = re.findall(r"[a-z]+", text.lower())
    if len(words) > _MOST_WORDS or len(status) > 60:
        return None
    pairs = {first + second for first, second in itertools.pairwise(words)}  # `timed out`
    found = {*words, *pairs}
    if found & _UNDERWAY or any(word in status for word in _CHINESE_UNDERWAY):
        return None
    is_success = bool(found & _SUCCESS) or any(word in status for word in _CHINESE_SUCCESS)
    is_failure = bool(found & _FAILURE) or any(word in status for word in _CHINESE_FAILURE)
    if is_success:  # `completed with errors` may have a file, and counts for nothing if it has none
        return Phase.SUCCEEDED
    return Phase.FAILED if is_failure else None


def with_likely_phase(observation: Observation) -> Observation:
    """The observation of a client that takes every unknown word for running, with what the word probably means.

    Args:
        observation: the result of the client's poll.
    """
    if observation.recognized or observation.phase not in (Phase.QUEUED, Phase.RUNNING):
        return observation
    return replace(observation, phase=likely_phase(observation.status) or observation.phase)

"""The accounts that may pay for a batch's rows: a row takes a free slot of one, and moves on where that cannot pay."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from prefect_genmedia._core.model import Job
from prefect_genmedia._core.session import Session
from prefect_genmedia.batch.slots import Slots
from prefect_genmedia.errors import AccountPaused, BudgetStop, CredentialsError, GenMediaError, QuotaError


@dataclass(eq=False)
class PayingAccount:
    """One account, as a batch uses it.

    Args:
        session: its session.
        slots: its in-flight slots.
        refusal: why it could not pay for the last row; None if it could. It gets rows only if all accounts refuse.
        free_at: until when its provider, or its pace, lets nobody send, by the event loop's clock.
    """

    session: Session
    slots: Slots
    refusal: GenMediaError | None = None
    free_at: float = field(default=float("-inf"))

    @property
    def shown(self) -> str:
        """The account in messages."""
        record = self.session.record
        return record.shown if record is not None and record.id else str(self.session.account)


@dataclass(eq=False)
class _Ticket:
    """A row that waits for a slot of any account that it has not tried."""

    tried: Collection[PayingAccount]
    granted: asyncio.Future[PayingAccount]


class AccountPool:
    """The accounts of one provider; with a single account, a queue for its slots.

    Args:
        accounts: the accounts, in the user's order.
        has_own_budgets: whether each account has its own budget in this batch, so that another one may still pay.
    """

    def __init__(self, accounts: Sequence[PayingAccount], has_own_budgets: bool = False) -> None:
        self.accounts = tuple(accounts)
        self._has_own_budgets = has_own_budgets
        self._waiting: deque[_Ticket] = deque()
        for account in accounts:
            account.slots.freed = self._wake

    @property
    def is_single(self) -> bool:
        """Whether there is only one account, so that no row can move on."""
        return len(self.accounts) == 1

    async def acquire(self, tried: Collection[PayingAccount] = (), first: bool = False) -> PayingAccount:
        """Wait for an in-flight slot, and take it: of the account with the most free slots.

        Args:
            tried: accounts that have refused the row; at least one other must be left.
            first: whether to have priority over all other waiters.

        Returns:
            The account, one of whose slots is taken.
        """
        if (first or not self._waiting) and (account := self._free(tried)) is not None:
            account.slots.take()
            return account
        ticket = _Ticket(tried, asyncio.get_running_loop().create_future())
        if first:
            self._waiting.appendleft(ticket)
        else:
            self._waiting.append(ticket)
        self._wake()
        try:
            return await ticket.granted
        except asyncio.CancelledError:
            if ticket.granted.done() and not ticket.granted.cancelled():
                ticket.granted.result().slots.release()  # the slot was granted at the time of the cancellation
            with suppress(ValueError):
                self._waiting.remove(ticket)
            raise

    def join(self, job: Job) -> PayingAccount | None:
        """Count a job that is at the provider already. Its account is given, even if it has no free slot.

        Args:
            job: the job.

        Returns:
            The account that paid for it, one of whose slots is taken; None if it is not of this pool.
        """
        payer = next((each for each in self.accounts if each.session.pays(job)), None)
        if payer is not None:
            payer.slots.take()
        return payer

    def cool(self, account: PayingAccount, seconds: float) -> None:
        """Give an account no row for a while; a single account has its own pauses.

        Args:
            account: the account.
            seconds: how long.
        """
        if not self.is_single:
            loop = asyncio.get_running_loop()
            account.free_at = max(account.free_at, loop.time() + seconds)
            loop.call_at(account.free_at + 0.001, self._wake)

    def is_refusal(self, error: GenMediaError) -> bool:
        """Whether an error of a submission says that this account cannot pay now, but that another one may.

        Args:
            error: what the submission raised; nothing was paid.
        """
        if self.is_single:
            return False
        if isinstance(error, BudgetStop):
            scope = str(error.facts.get("scope", ""))
            return scope.startswith("account.") or (self._has_own_budgets and scope.startswith("budget."))
        return isinstance(error, AccountPaused | CredentialsError | QuotaError)

    def _free(self, tried: Collection[PayingAccount]) -> PayingAccount | None:
        now = asyncio.get_running_loop().time()
        free = [each for each in self._usable(tried) if each.free_at <= now and each.slots.free > 0]
        return max(free, key=lambda each: each.slots.free, default=None)

    def _usable(self, tried: Collection[PayingAccount]) -> Iterator[PayingAccount]:
        """Yields the accounts that a row may take: those that have not refused, or else those that it has not tried."""
        left = [each for each in self.accounts if each not in tried]
        willing = [each for each in left if each.refusal is None]
        yield from willing or left

    def _wake(self) -> None:
        for ticket in list(self._waiting):
            if ticket.granted.done():
                self._waiting.remove(ticket)
            elif (account := self._free(ticket.tried)) is not None:
                self._waiting.remove(ticket)
                account.slots.take()
                ticket.granted.set_result(account)


class Lease:
    """A row's in-flight slot of the account that is to pay for it. Only the first release has an effect.

    Args:
        pool: the accounts.
        account: the account, one of whose slots is taken.
    """

    def __init__(self, pool: AccountPool, account: PayingAccount) -> None:
        self.pool = pool
        self.account = account
        self._held = True
        self._refusals: dict[PayingAccount, GenMediaError] = {}

    @property
    def session(self) -> Session:
        """The account's session."""
        return self.account.session

    def release(self) -> None:
        """Release the slot if it is still held."""
        if self._held:
            self._held = False
            self.account.slots.release()

    async def acquire_again(self) -> None:
        """Wait for another slot, with priority over rows that have not begun. It may be that of another account."""
        self.release()
        self.account = await self.pool.acquire(self._refusals, first=True)
        self._held = True

    async def move_on(self, refusal: GenMediaError) -> None:
        """Take a slot of the next account: this one cannot pay for the row.

        Args:
            refusal: what it answered; see `AccountPool.is_refusal`.

        Raises:
            GenMediaError: every account has refused; the message names each.
        """
        self.account.refusal = self._refusals[self.account] = refusal
        if len(self._refusals) == len(self.pool.accounts):
            raise refused_by_all({each: self._refusals[each] for each in self.pool.accounts})
        await self.acquire_again()


def refused_by_all(refusals: Mapping[PayingAccount, GenMediaError]) -> GenMediaError:
    """Returns the error for a row that no account can pay for: the last one's, in whose message all are named.

    Args:
        refusals: what each account answered, in the order in which they are to be named.
    """
    errors = list(refusals.values())
    last = next((each for each in reversed(errors) if not isinstance(each, BudgetStop)), errors[-1])
    each_one = " ".join(f"{account.shown}: {error.message}" for account, error in refusals.items())
    facts: dict[str, Any] = {name: value for name, value in vars(last).items() if name != "message"}
    combined = type(last)(f"None of the {len(refusals)} accounts can pay for this row. {each_one}")
    combined.__dict__.update(facts)
    return combined

"""A shared resource is opened by its first user and closed by its last, once for each event loop."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from prefect_genmedia._transport import LoopShared


class Resource:
    def __init__(self) -> None:
        self.closed = False


class Kept:
    """A shared resource, with a list of all that were opened."""

    def __init__(self) -> None:
        self.opened: list[Resource] = []
        self.shared: LoopShared[Resource] = LoopShared(self.close)

    async def open(self) -> Resource:
        await asyncio.sleep(0)
        self.opened.append(Resource())
        return self.opened[-1]

    async def close(self, resource: Resource) -> None:
        await asyncio.sleep(0)
        assert not resource.closed, "closed twice"
        resource.closed = True

    def lease(
        self, key: str = "key", opener: Callable[[], Awaitable[Resource]] | None = None
    ) -> AbstractAsyncContextManager[Resource]:
        return self.shared.lease(key, opener or self.open)


@pytest.fixture
def kept() -> Kept:
    return Kept()


async def settle() -> None:
    """Let every task run until it waits for something that only the test gives."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_concurrent_users_open_it_once(kept: Kept) -> None:
    async def use() -> Resource:
        async with kept.lease() as resource:
            await settle()
            assert not resource.closed
            return resource

    used = await asyncio.gather(*(use() for _ in range(10)))
    assert len(kept.opened) == 1
    assert set(used) == set(kept.opened)


async def test_only_the_last_user_closes_it(kept: Kept) -> None:
    async with kept.lease() as outer:
        async with kept.lease() as inner:
            assert inner is outer
        assert not outer.closed
    assert outer.closed


async def test_whoever_comes_after_the_last_user_gets_a_new_one(kept: Kept) -> None:
    async with kept.lease() as first:
        pass
    async with kept.lease() as second:
        assert second is not first
        assert not second.closed


async def test_each_key_has_its_own(kept: Kept) -> None:
    async with kept.lease("a") as first, kept.lease("b") as second:
        assert first is not second


async def test_whoever_comes_while_it_closes_gets_a_new_one() -> None:
    closing, may_close = asyncio.Event(), asyncio.Event()
    kept = Kept()

    async def close_slowly(resource: Resource) -> None:
        closing.set()
        await may_close.wait()
        resource.closed = True

    kept.shared = LoopShared(close_slowly)

    async def use() -> Resource:
        async with kept.lease() as resource:
            return resource

    leaving = asyncio.create_task(use())
    await closing.wait()
    coming = asyncio.create_task(use())
    await settle()
    may_close.set()
    assert await coming is not await leaving


async def test_a_user_that_fails_still_leaves(kept: Kept) -> None:
    with pytest.raises(RuntimeError, match="mine"):
        async with kept.lease():
            raise RuntimeError("mine")
    assert kept.opened[0].closed


async def test_a_user_that_is_cancelled_still_leaves(kept: Kept) -> None:
    async def use() -> None:
        async with kept.lease():
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert kept.opened[0].closed


async def test_a_user_that_is_cancelled_closes_nothing_for_the_others(kept: Kept) -> None:
    async def use() -> None:
        async with kept.lease():
            await asyncio.Event().wait()

    async with kept.lease() as resource:
        task = asyncio.create_task(use())
        await settle()
        task.cancel()
        await settle()
        assert not resource.closed


async def test_a_failed_opening_leaves_it_usable(kept: Kept) -> None:
    async def fail() -> Resource:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        async with kept.lease(opener=fail):
            pytest.fail("must not be entered")
    async with kept.lease() as resource:
        assert not resource.closed
    assert resource.closed


async def test_when_the_first_cannot_open_it_the_next_in_line_does(kept: Kept) -> None:
    may_fail = asyncio.Event()

    async def fail() -> Resource:
        await may_fail.wait()
        raise OSError("no")

    async def use(opener: Callable[[], Awaitable[Resource]]) -> Resource:
        async with kept.lease(opener=opener) as resource:
            return resource

    failing = asyncio.create_task(use(fail))
    await settle()
    waiting = asyncio.create_task(use(kept.open))
    await settle()
    may_fail.set()
    assert await waiting is kept.opened[0]
    with pytest.raises(OSError, match="no"):
        await failing
    assert kept.opened[0].closed


async def test_a_cancelled_opening_leaves_it_usable(kept: Kept) -> None:
    async def never() -> Resource:
        await asyncio.Event().wait()
        raise AssertionError

    async def use() -> None:
        async with kept.lease(opener=never):
            pass

    task = asyncio.create_task(use())
    await settle()
    task.cancel()
    async with kept.lease() as resource:
        assert not resource.closed


async def test_a_failed_closing_leaves_it_usable() -> None:
    async def fail(resource: Resource) -> None:
        raise OSError("stuck")

    kept = Kept()
    kept.shared = LoopShared(fail)
    for _ in range(2):
        with pytest.raises(OSError, match="stuck"):
            async with kept.lease():
                pass
    assert len(kept.opened) == 2


async def test_another_event_loop_has_its_own(kept: Kept) -> None:
    async def elsewhere() -> Resource:
        async with kept.lease() as resource:
            return resource

    async with kept.lease() as here:
        there = await asyncio.to_thread(asyncio.run, elsewhere())
        assert there is not here
        assert there.closed
        assert not here.closed


def test_an_event_loop_that_has_ended_is_not_kept_alive(kept: Kept) -> None:
    async def use() -> None:
        async with kept.lease():
            await settle()

    async def crowd() -> None:
        await asyncio.gather(use(), use(), use())

    loop = asyncio.new_event_loop()
    loop.run_until_complete(crowd())
    loop.close()
    ended = weakref.ref(loop)
    del loop
    gc.collect()
    assert ended() is None

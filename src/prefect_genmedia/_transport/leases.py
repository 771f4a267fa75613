"""One shared resource per event loop: opened by its first user, closed by its last.

An HTTP client or a database engine is bound to the loop it was made in, so it is never shared between loops; and
nothing tells a library when a loop ends, so it is never kept beyond its last user either. Whoever wants one kept warm
between calls (a batch) simply holds a lease of its own around them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

Resource = TypeVar("Resource")


class _Shared(Generic[Resource]):
    def __init__(self) -> None:
        self.users = 0
        self.lock = asyncio.Lock()
        self.resource: Resource | None = None


class LoopShared(Generic[Resource]):
    """A family of resources, one for each event loop and key.

    Args:
        close: awaited with a resource when its last user has left.
    """

    def __init__(self, close: Callable[[Resource], Awaitable[None]]) -> None:
        """Start with no resource open."""
        self._close = close
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, _Shared[Resource]]] = (
            WeakKeyDictionary()
        )

    @asynccontextmanager
    async def lease(self, key: Hashable, open_resource: Callable[[], Awaitable[Resource]]) -> AsyncIterator[Resource]:
        """Use the resource of `key` in this event loop; `open_resource` makes it if nobody uses it yet."""
        shared = self._loops.setdefault(asyncio.get_running_loop(), {}).setdefault(key, _Shared())
        shared.users += 1
        try:
            async with shared.lock:
                if shared.resource is None:
                    shared.resource = await open_resource()
                resource = shared.resource
            yield resource
        finally:
            shared.users -= 1
            if shared.users == 0:
                await asyncio.shield(self._drop(key, shared))

    async def _drop(self, key: Hashable, shared: _Shared[Resource]) -> None:
        async with shared.lock:
            if shared.users:
                return  # somebody came back while we waited for the lock
            resource, shared.resource = shared.resource, None
            try:
                if resource is not None:
                    await self._close(resource)
            finally:
                # The lock may hold the loop, and the loop is this dictionary's weak key.
                family = self._loops.get(asyncio.get_running_loop(), {})
                if not shared.users and family.get(key) is shared:
                    del family[key]

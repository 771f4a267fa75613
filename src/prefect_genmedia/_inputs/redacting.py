"""Keeping what was sent in place of a user's file out of what a provider's error repeats of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from urllib.parse import parse_qsl, quote, urlsplit

from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.inputs import SentInput
from prefect_genmedia.providers.protocol import Accepted, GenerationRequest, Observation, ProviderClient, ResultStream
from prefect_genmedia._transport import MASK, Redactor

_BASE64_RUN = re.compile(r"[A-Za-z0-9+/]{100,}={0,2}")
"""An answer may cut what it repeats, so that no exact comparison finds it; no word of a language is as long."""
_TELLING = 16
"""Characters: shorter values in a signed URL are dates and numbers."""


class DiscreetClient:
    """A client whose errors do not repeat the base64 text and signed URLs that it was given to send.

    Gateways quote a request that they refuse, and errors go into ledgers, logs and databases.

    Parameters:
        client: the account's client.
        sent: what is sent in place of users' files.
    """

    def __init__(self, client: ProviderClient, sent: Iterable[SentInput]) -> None:
        self._client = client
        self.account = client.account
        self.fetch_rules = client.fetch_rules
        queries = [urlsplit(each.url).query for each in sent if each.url]
        values = [value for query in queries for _, value in parse_qsl(query) if len(value) >= _TELLING]
        self._redactor = Redactor([*queries, *values, *map(quote, values)])

    def turn(self) -> AbstractAsyncContextManager[None]:
        """Wait for the right to submit now, and hold it."""
        return self._client.turn()

    async def submit(self, request: GenerationRequest) -> Accepted:
        """Send the request, once, inside `turn()`.

        Raises:
            GenMediaError: the client's own, without what was sent.
        """
        try:
            return await self._client.submit(request)
        except GenMediaError as error:
            raise self._cleaned(error) from None

    async def poll(self, provider_job_id: str) -> Observation:
        """Look at a job."""
        return await self._client.poll(provider_job_id)

    def open_result(self, provider_job_id: str, index: int = 0) -> AbstractAsyncContextManager[ResultStream]:
        """Open the job's file number `index` for download."""
        return self._client.open_result(provider_job_id, index)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _cleaned(self, error: GenMediaError) -> GenMediaError:
        error.message = self._clean(error.message)
        error.args = (error.message,)
        error.body = self._clean(error.body) if error.body is not None else None
        return error

    def _clean(self, text: str) -> str:
        return _BASE64_RUN.sub(MASK, self._redactor.clean(text))

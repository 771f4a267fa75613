"""All of it, in the order in which one thing needs the other, and trying a key without paying."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client

from prefect_genmedia._media.storage import without_password
from prefect_genmedia._prefect.session import credentials_types
from prefect_genmedia.deploy.changes import Change, Outcome
from prefect_genmedia.deploy.deployments import apply_deployment
from prefect_genmedia.deploy.documents import apply_block_type, apply_document, read_secrets
from prefect_genmedia.deploy.files import (
    BLOCK_DOCUMENTS,
    DEFAULT_POOL,
    DEPLOYMENTS,
    RECONCILE_POOL,
    AutomationsFile,
    DeploymentSpec,
    DocumentsFile,
    DocumentSpec,
    LimitSpec,
    PoolProfile,
    PrefectFile,
    ServerFile,
    read_spec,
)
from prefect_genmedia.deploy.infrastructure import (
    apply_automation,
    apply_limit,
    apply_output,
    apply_work_pool,
    has_work_pool,
)
from prefect_genmedia.deploy.watch import reconcile_change
from prefect_genmedia.errors import CredentialsError, GenMediaError, InvalidRequest, QuotaError, RateLimited
from prefect_genmedia.job_block import MediaJob
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.providers.protocol import ProviderClient

LEDGER_DOCUMENT = "secret/genmedia-ledger-url"
"""The Block document that containers take the ledger's database from."""


@dataclass(frozen=True)
class Options:
    """What a person chooses.

    Args:
        pool: the work pool's name; None takes the one that prefect.yaml names.
        pool_type: the type of a pool that is to be created.
        image: the image of containers, in place of the profile's.
        output: where containers put files: an fsspec URL that all of them reach.
        secrets: a file with keys, in place of environment variables.
        alerts: `TYPE/NAME` of the notification Block for automations.
        providers: only deployments and credentials of these; empty for all.
        check: whether to look only, and try the keys.
        prefect_file, server_file, automations_file, documents_file: a team's own, in place of the shipped ones.
        environment: where values of Block documents come from.
        checked: takes the credentials Blocks whose keys a check has tried.
    """

    pool: str | None = None
    pool_type: str | None = None
    image: str | None = None
    output: str | None = None
    secrets: Path | None = None
    alerts: str | None = None
    providers: frozenset[str] = frozenset()
    check: bool = False
    prefect_file: Path | None = None
    server_file: Path | None = None
    automations_file: Path | None = None
    documents_file: Path | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    checked: list[ProviderCredentials] = field(default_factory=list, repr=False)


async def apply(options: Options) -> AsyncIterator[Change]:
    """Apply everything to the server that Prefect is set to, and tell each step.

    Every file and option is checked, against the server too, before the first thing is changed.

    Raises:
        InvalidRequest: a file or an option cannot be right.
    """
    declared = _declared(options)
    async with get_client() as client:
        if not options.check:
            async for _ in _applied(client, options, declared, dry=True):
                pass  # a rehearsal: what cannot be right stops it before anything is changed
        async for change in _applied(client, options, declared, options.check):
            yield change
        yield await reconcile_change(client)


@dataclass(frozen=True)
class _Declared:
    """What the files say."""

    prefect_file: PrefectFile
    server: ServerFile
    automations: AutomationsFile
    documents: DocumentsFile
    values: Mapping[str, str] = field(repr=False)


def _declared(options: Options) -> _Declared:
    without_password(options.output or "")
    prefect_file = read_spec(PrefectFile, DEPLOYMENTS, "prefect.yaml", options.prefect_file)
    server = read_spec(ServerFile, DEPLOYMENTS, "server.yaml", options.server_file)
    automations = read_spec(AutomationsFile, DEPLOYMENTS, "automations.yaml", options.automations_file)
    documents = read_spec(DocumentsFile, BLOCK_DOCUMENTS, "documents.yaml", options.documents_file)
    secrets = read_secrets(options.secrets, documents.documents) if options.secrets else {}
    values = {**options.environment, **secrets}
    return _Declared(prefect_file, server, automations, documents, values)


async def _applied(client: PrefectClient, options: Options, declared: _Declared, dry: bool) -> AsyncIterator[Change]:
    block_types: list[type[Block]] = [*credentials_types().values(), MediaJob]
    for block_type in block_types:
        yield await apply_block_type(client, block_type, dry)
    present: dict[str, Block] = {}
    for document in _chosen_documents(declared.documents.documents, options.providers):
        change, block = await apply_document(client, document, declared.values, dry)
        yield change
        if block is not None:
            present[change.name] = block
        if options.check and isinstance(block, ProviderCredentials):
            options.checked.append(block)
            yield await probe(block)

    deployments = _chosen(declared.prefect_file.deployments, options.providers)
    pools = await _pools(client, options, declared)
    variable = await apply_output(client, options.output, dry)
    if variable is not None:
        yield variable
    for pool in {pool.name: pool for pool in pools.values()}.values():
        _require_shared(pool.profile, pool.name, LEDGER_DOCUMENT in present, variable is not None)
        yield (await apply_work_pool(client, pool.name, pool.type, dry))[0]
    for name, limit in _chosen_limits(declared.server.global_concurrency_limits, options.providers).items():
        yield await apply_limit(client, name, limit, dry)

    for deployment in deployments:
        pool = pools[deployment.work_pool.name]
        yield await apply_deployment(client, deployment, pool.name, pool.job_variables(options.image), dry)
    for automation in declared.automations.automations:
        yield await apply_automation(client, automation, options.alerts, dry)


@dataclass(frozen=True)
class _Pool:
    """A work pool to deploy to."""

    name: str
    type: str
    profile: PoolProfile

    def job_variables(self, image: str | None) -> dict[str, Any]:
        """What its deployments are given."""
        own_image = image is not None and "image" in self.profile.job_variables
        return {**self.profile.job_variables, **({"image": image} if own_image else {})}


async def _pools(client: PrefectClient, options: Options, declared: _Declared) -> dict[str, _Pool]:
    """The pools to deploy to, by the name that prefect.yaml has for them; nothing is created yet.

    `--pool` stands for the pool of the runs that pay. Reconcile has one of its own, of the same type.
    """
    named = {deployment.work_pool.name for deployment in declared.prefect_file.deployments}
    shared = named - {RECONCILE_POOL}
    if options.pool is None and len(shared) > 1:
        raise InvalidRequest(
            f"The deployments name several work pools ({', '.join(sorted(shared))}): choose with --pool."
        )
    name = options.pool or next(iter(shared), DEFAULT_POOL)
    found = await _found_pool(client, name, options.pool_type, declared.server)
    if options.image and "image" not in found.profile.job_variables:
        raise InvalidRequest(f"Work pool {name!r} is of type {found.type}, which runs no image.")
    pools = dict.fromkeys(shared, found)
    if RECONCILE_POOL in named:
        is_there = await has_work_pool(client, RECONCILE_POOL)
        own_type = None if is_there else found.type
        pools[RECONCILE_POOL] = await _found_pool(client, RECONCILE_POOL, own_type, declared.server)
    return pools


async def _found_pool(client: PrefectClient, name: str, pool_type: str | None, server: ServerFile) -> _Pool:
    _, found = await apply_work_pool(client, name, pool_type, dry=True)
    return _Pool(name, found, server.work_pools.get(found, PoolProfile()))


def _require_shared(profile: PoolProfile, pool: str, ledger: bool, output: bool) -> None:
    missing = []
    if "ledger" in profile.requires and not ledger:
        missing.append("a ledger that all containers share: set GENMEDIA_LEDGER_URL to a PostgreSQL URL")
    if "output" in profile.requires and not output:
        missing.append("a place for files that outlives a container: give --output s3://… or another fsspec URL")
    if missing:
        raise InvalidRequest(f"Work pool {pool!r} runs containers, and needs {'; and '.join(missing)}.")


def _chosen(deployments: list[DeploymentSpec], providers: frozenset[str]) -> list[DeploymentSpec]:
    """Those that are not tagged with a provider that was not chosen."""
    left_out = (set(credentials_types()) - providers) if providers else set()
    return [deployment for deployment in deployments if not left_out & set(deployment.tags)]


def _chosen_limits(limits: Mapping[str, LimitSpec], providers: frozenset[str]) -> dict[str, LimitSpec]:
    """Those that are not for a provider that was not chosen."""
    return {
        name: limit for name, limit in limits.items() if not providers or limit.provider in (None, *sorted(providers))
    }


def _chosen_documents(documents: list[DocumentSpec], providers: frozenset[str]) -> list[DocumentSpec]:
    left_out = {name: block for name, block in credentials_types().items() if providers and name not in providers}
    slugs = {block.get_block_type_slug() for block in left_out.values()}
    return [document for document in documents if document.block not in slugs]


NO_SUCH_JOB = "0000000000000000"
"""A job id that no provider gives; looking at it costs nothing."""


async def probe(credentials: ProviderCredentials) -> Change:
    """Ask the provider for a job that does not exist: it looks at the key first.

    Args:
        credentials: the Block whose key is tried.
    """
    client: ProviderClient = credentials.get_client()
    name = f"{credentials.provider} at {client.account.base_url}"
    try:
        await client.poll(NO_SUCH_JOB)
    except CredentialsError as error:
        return Change("key", name, Outcome.REFUSED, error.message)
    except QuotaError as error:
        return Change("key", name, Outcome.ACCEPTED, f"but: {error.message}")
    except RateLimited:
        return Change("key", name, Outcome.UNREACHABLE, "the provider asks to slow down; try again later")
    except GenMediaError as error:
        status = error.http_status
        if status is not None and status < 500:
            return Change("key", name, Outcome.ACCEPTED, f"HTTP {status} for a job that does not exist")
        return Change("key", name, Outcome.UNREACHABLE, error.message)
    finally:
        await client.aclose()
    return Change("key", name, Outcome.ACCEPTED)

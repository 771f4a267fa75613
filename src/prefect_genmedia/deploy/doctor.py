"""Diagnosis: each check is a function that returns rows of one table, and pays for nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timezone
from email.utils import parsedate_to_datetime

import anyio
import httpx
from anyio import to_thread
from prefect.client.orchestration import get_client
from prefect.settings import get_current_settings
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from prefect_genmedia._core.ledger import Ledger, open_ledger
from prefect_genmedia._core.ledger_file import LedgerFile
from prefect_genmedia._core.model import AT_PROVIDER, JobState
from prefect_genmedia._core.rounds import NEXT_STEP, health
from prefect_genmedia._inputs.publish import NotPublishable
from prefect_genmedia._media.folder import Storage
from prefect_genmedia._media.storage import LocalFolder
from prefect_genmedia._prefect.session import credentials_types, publication_of
from prefect_genmedia._prefect.targets import target_of
from prefect_genmedia._transport import Redactor, excerpt
from prefect_genmedia._transport.fetch import system_resolver
from prefect_genmedia._transport.hosts import Origin, is_address, is_fake_ip, refusal_of_host
from prefect_genmedia._transport.network import (
    CA_VARIABLES,
    Routes,
    UnusableSettings,
    has_hashed_names,
    shown_proxy,
    ssl_context,
    usable_proxy,
    variable_of,
)
from prefect_genmedia._transport.noted import NotedAnswer, noted_answers
from prefect_genmedia.deploy.apply import probe
from prefect_genmedia.deploy.changes import Outcome
from prefect_genmedia.errors import GenMediaError
from prefect_genmedia.providers.credentials import ProviderCredentials, secrets_of
from prefect_genmedia.settings import GenMediaSettings, current_settings
from prefect_genmedia.text import counted

SKEW_SECONDS = 60.0
"""How far the clock may be off. Signed URLs and tokens are dated; storages refuse more than some minutes."""

LEFT_SECONDS = 3600.0
"""A paid job that no process has touched for this long, in seconds, should have been collected by `reconcile_jobs`."""

PATIENCE_SECONDS = 10.0
"""How long one check of the network, the ledger or a storage may take, in seconds."""


@dataclass(frozen=True)
class Finding:
    """One row.

    Args:
        check: what was checked.
        found: what was found.
        step: what to do; empty if nothing is wrong.
    """

    check: str
    found: str
    step: str = ""


async def stored_credentials(names: Sequence[str] = ()) -> tuple[list[ProviderCredentials], list[Finding]]:
    """The saved credentials Blocks, and what is wrong with those that cannot be loaded.

    Args:
        names: as TYPE/NAME; empty for all.
    """
    blocks: list[ProviderCredentials] = []
    if get_current_settings().api.url is None:
        return blocks, [Finding("Prefect", "PREFECT_API_URL is not set", "set it to the API of your Prefect server.")]
    types = {each.get_block_type_slug(): each for each in credentials_types().values()}
    problems: list[Finding] = []
    try:
        chosen = names or await _stored_names(list(types))
    except Exception as error:  # Prefect's own client reads the same proxies and certificates
        step = "start it, or correct PREFECT_API_URL, which ends in /api (and PREFECT_API_KEY)."
        if not isinstance(error, httpx.HTTPError):
            step = "solve proxy and CA below first: Prefect's own client reads them, too."
        return blocks, [Finding("Prefect", f"the server does not answer: {type(error).__name__}", step)]
    for each in chosen:
        slug, _, name = each.partition("/")
        try:
            block = await types[slug].aload(name)
        except Exception as error:  # a Block holds a key: the type is all that may be said of what is wrong in it
            step = f"save it again; the types are {', '.join(types)}."
            problems.append(Finding("Block", f"{each} cannot be loaded: {type(error).__name__}", step))
        else:
            assert isinstance(block, ProviderCredentials)  # tells the type checker
            blocks.append(block)
    if not chosen:
        problems.append(Finding("key", "no credentials Block is saved", "save one: `prefect-genmedia deploy`."))
    return blocks, problems


async def _stored_names(slugs: Sequence[str]) -> list[str]:
    async with get_client() as client:
        known = {each.slug for each in await client.read_block_types()}
        documents = [
            (slug, each)
            for slug in slugs
            if slug in known
            for each in await client.read_block_documents_by_type(slug, include_secrets=False)
        ]
    return [f"{slug}/{each.name}" for slug, each in documents]


async def diagnose(credentials: Sequence[ProviderCredentials]) -> list[Finding]:
    """Check the network, the accounts, the ledger and the storages.

    Args:
        credentials: the accounts.

    Returns:
        The rows of the table. No secret is in them.
    """
    settings, routes = current_settings(), Routes.from_environment()
    findings = [*await check_proxies(routes), check_certificates()]
    for block in credentials:
        findings += await check_account(block, routes)
    findings += await check_ledger(settings)
    findings.append(
        await _tried("output", settings.media_folder, lambda: _write(settings), "another OUTPUT, or rights")
    )
    findings.append(await check_inputs_storage(settings))
    return _redacted(findings, credentials, routes, settings)


async def check_proxies(routes: Routes) -> list[Finding]:
    """Which proxies are set, and whether they answer.

    Args:
        routes: the environment's.
    """
    findings = []
    for scheme, value in routes.proxies.items():
        variable = variable_of(scheme)
        check, shown = f"proxy {scheme}", f"{variable} is {shown_proxy(value)}"
        try:
            url = usable_proxy(value, variable).url
            port = url.port or {"https": 443, "http": 80}.get(url.scheme, 1080)
            with anyio.fail_after(PATIENCE_SECONDS):
                await (await anyio.connect_tcp(url.host, port)).aclose()
        except UnusableSettings as error:
            findings.append(Finding(check, str(error), f"correct {variable}."))
        except OSError as error:
            problem = f"{shown}, and cannot be reached: {error.strerror or type(error).__name__}"
            findings.append(Finding(check, problem, f"start the proxy, or correct or unset {variable}."))
        else:
            findings.append(Finding(check, shown))
    if not findings:
        return [Finding("proxy", "none is set: connections are direct")]
    bypassed = ", ".join(routes.bypassed) or "nothing"
    return [*findings, Finding("NO_PROXY", f"goes past the proxy: {excerpt(bypassed, 200)}")]


def check_certificates() -> Finding:
    """Which certificate authorities are trusted."""
    chosen = {name: value for name in CA_VARIABLES if (value := os.environ.get(name))}
    name, value = next(iter(chosen.items()), ("", ""))
    try:
        known = ssl_context().cert_store_stats()["x509_ca"]
    except UnusableSettings as error:
        return Finding("CA", str(error), f"correct or unset {name}.")
    if not name:
        return Finding("CA", f"{known} of certifi; no variable names others")
    if known == 0 and not has_hashed_names(chosen.get("SSL_CERT_DIR", value)):
        step = f"run `openssl rehash {value}`, or name one file in SSL_CERT_FILE."
        return Finding("CA", f"{name} is {value}, in which OpenSSL finds no CA", step)
    return Finding("CA", f"{name} is {value}" + (f": {counted(known, 'CA')}, in place of certifi's" if known else ""))


async def check_account(block: ProviderCredentials, routes: Routes) -> list[Finding]:
    """Resolve the host of an account, and ask for a job that does not exist.

    Args:
        block: the account's Block.
        routes: the environment's.
    """
    base_url = str(getattr(block, "base_url", ""))
    with noted_answers() as noted:
        tried = await probe(block)
    answer = noted[-1] if noted else None
    found = [await check_names(base_url, routes), _base_url(base_url, answer, tried.detail)]
    if answer is not None:
        found += [_key(block, tried.outcome, tried.detail, answer), _clock(answer)]
    name = block.name_of_account
    return [
        Finding(f"{each.check} ({block.provider}{f' {name}' if name else ''})", each.found, each.step) for each in found
    ]


async def check_names(base_url: str, routes: Routes) -> Finding:
    """Who resolves the name of an API's host, and to which kind of address.

    Args:
        base_url: where the API is.
        routes: the environment's.
    """
    url = httpx.URL(base_url)
    host, (_, _, port) = url.raw_host.decode(), Origin.of(url)
    scheme = routes.scheme_for(url)
    if scheme is not None:
        found = f"{host} is resolved by the proxy of {variable_of(scheme)}"
        private = refusal_of_host(host) is not None
        return Finding("fake-IP", found, f"add {host} to NO_PROXY: it is a private host." if private else "")
    if is_address(host):
        step = "give the host's name: a fake IP changes." if is_fake_ip(host) else ""
        return Finding("fake-IP", f"{host} is an address, nothing is resolved", step)
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            addresses = await system_resolver(host, port)
    except (OSError, UnicodeError) as error:
        problem = f"{host} cannot be resolved: {getattr(error, 'strerror', None) or type(error).__name__}"
        return Finding("fake-IP", problem, "check base_url and DNS; behind a proxy, set HTTPS_PROXY.")
    fake = [address for address in addresses if is_fake_ip(address)]
    if fake:
        return Finding("fake-IP", f"{host} is {fake[0]}, a fake IP of a local proxy: allowed from DNS")
    return Finding("fake-IP", f"none: {host} is {', '.join(addresses[:3])}")


def _base_url(base_url: str, answer: NotedAnswer | None, problem: str) -> Finding:
    if answer is None:
        step = "check base_url, the proxy and the certificates above; then whether the provider is up."
        return Finding("base URL", problem, step)
    if answer.media_type == "text/html":
        found = f"{base_url} answered HTTP {answer.status} with a web page, not as an API"
        return Finding("base URL", found, "check base_url (is /v1 missing?), and whether a firewall answers.")
    if 300 <= answer.status < 400:
        return Finding("base URL", f"{base_url} redirects (HTTP {answer.status})", "set base_url to where it leads.")
    return Finding("base URL", f"{base_url} answered HTTP {answer.status}")


def _key(block: ProviderCredentials, outcome: Outcome, detail: str, answer: NotedAnswer) -> Finding:
    if outcome is Outcome.REFUSED:
        return Finding("key", f"refused: {detail}", f"put a valid key into the Block {type(block).__name__}.")
    if outcome is Outcome.UNREACHABLE or answer.media_type == "text/html":
        return Finding("key", f"not tried: {detail}", "solve base URL first, or try again later.")
    if detail.startswith("but: "):
        return Finding("key", f"accepted, {detail}", "top up the account.")
    return Finding("key", "accepted (a look-up of a job that does not exist)")


def _clock(answer: NotedAnswer) -> Finding:
    try:
        moment = parsedate_to_datetime(answer.date)
    except (ValueError, OverflowError):
        return Finding("clock", "unknown: the answer has no Date that can be read")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    skew = answer.received_at - moment.timestamp()
    if abs(skew) <= SKEW_SECONDS:
        return Finding("clock", f"within {SKEW_SECONDS:.0f} s of the provider's")
    found = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the provider's Date"
    return Finding("clock", found, "set this machine's clock (NTP): tokens and signed URLs are dated.")


async def check_ledger(settings: GenMediaSettings) -> list[Finding]:
    """Whether the ledger can be opened, and what it knows of jobs that were left. A new one is not created.

    Args:
        settings: the settings.
    """
    shown = "PREFECT_INTEGRATIONS_GENMEDIA_LEDGER_URL"
    try:
        url = make_url(settings.ledger)
        shown = url.render_as_string(hide_password=True)
        file = url.database if url.get_backend_name() == "sqlite" else None
        if file and file != ":memory:" and not await anyio.Path(file).exists() and not LedgerFile(file).has_marker:
            return [await _tried("ledger", shown, lambda: _writable_folder_of(file), "another LEDGER_URL, or rights")]
        async with open_ledger(settings.ledger, patience_seconds=PATIENCE_SECONDS) as ledger:
            count = len(await ledger.jobs({JobState.SENDING, *AT_PROVIDER}))
            return [Finding("ledger", f"{shown}: {counted(count, 'job')} under way"), await check_reconcile(ledger)]
    except GenMediaError as error:
        return [Finding("ledger", f"{shown}: {error.message}", error.next_step or "check the database.")]
    except (ArgumentError, OSError, ValueError) as error:
        return [Finding("ledger", f"{shown}: {type(error).__name__}", "correct LEDGER_URL.")]


async def check_reconcile(ledger: Ledger) -> Finding:
    """What the ledger says about jobs that `reconcile_jobs` should have collected, or that need a person.

    Args:
        ledger: the open ledger.
    """
    now = time.time()
    under_way = await ledger.jobs({JobState.SENDING, *AT_PROVIDER})
    left = [job for job in under_way if now - job.updated_at > LEFT_SECONDS]
    if left:
        longest = max(now - job.updated_at for job in left) / 3600
        found = f"{counted(len(left), 'paid job')} left alone for up to {longest:.0f} h"
        return Finding("reconcile", found, "switch on the schedule of reconcile-jobs, and check its worker and Blocks.")
    unknown = len(await ledger.jobs({JobState.UNKNOWN}))
    if unknown:
        step = "`prefect-genmedia jobs list --state unknown`, then adopt, resubmit or abandon each."
        return Finding("reconcile", counted(unknown, "job needs a person", "jobs need a person"), step)
    state = await health(ledger)
    if state.is_overdue and not under_way:
        return Finding("reconcile", f"{state} No job waits for it now.")
    return Finding("reconcile", str(state), NEXT_STEP if state.is_overdue else "")


async def check_inputs_storage(settings: GenMediaSettings) -> Finding:
    """Whether local inputs can be published for providers.

    Args:
        settings: the settings.
    """
    publication = publication_of(settings)
    if not settings.publish_url:
        return Finding("storage", "PUBLISH_URL is not set: inputs must be URLs, or small enough to be sent along")

    async def publish() -> str:
        return await to_thread.run_sync(publication.try_publishing, abandon_on_cancel=True)

    return await _tried("storage", settings.publish_url, publish, "PUBLISH_URL and the storage's credentials")


async def _write(settings: GenMediaSettings) -> str:
    target = await target_of(settings.media_folder)
    return await to_thread.run_sync(_probed, target.storage, abandon_on_cancel=True)


def _probed(storage: Storage) -> str:
    """Write a small file and remove it, and create no folder for that."""
    if not isinstance(storage, LocalFolder):
        storage.probe()
        return "writable"
    there = next(folder for folder in (storage.folder, *storage.folder.parents) if folder.exists())
    LocalFolder(there).probe()
    return "writable" if there == storage.folder else "is created when needed"


async def _writable_folder_of(file: str) -> str:
    target = await target_of(str((await anyio.Path(file).absolute()).parent))
    await to_thread.run_sync(_probed, target.storage)
    return "is created by the first job"


async def _tried(check: str, shown: str, work: Callable[[], Awaitable[str]], repair: str) -> Finding:
    step = f"check {repair}."
    try:
        with anyio.fail_after(3 * PATIENCE_SECONDS):
            return Finding(check, f"{shown}: {await work()}")
    except GenMediaError as error:
        return Finding(check, f"{shown}: {error.message}", step)
    except NotPublishable as error:
        return Finding(check, f"{shown}: {error}", step)
    except Exception as error:  # whatever a storage raises
        return Finding(check, f"{shown}: {excerpt(str(error), 200) or type(error).__name__}", step)


def _redacted(
    findings: Sequence[Finding], credentials: Sequence[ProviderCredentials], routes: Routes, settings: GenMediaSettings
) -> list[Finding]:
    secrets = [secret for block in credentials for secret in secrets_of(block)]
    for url in (*routes.proxies.values(), settings.ledger, settings.media_folder, settings.publish_url or ""):
        at = url.rpartition("://")[2].rpartition("@")[0]
        secrets += [at, at.partition(":")[2]]
    redactor = Redactor(secrets)
    return [Finding(each.check, redactor.clean(each.found), redactor.clean(each.step)) for each in findings]

"""Delivered files as Prefect assets: what was made, from what, by whom, at what estimated cost.

Prefect's own `@materialize` wants the asset's key before the task runs. A file's place is known only once it has been
delivered, so the same event is emitted here, at that moment, and the run goes on as if it had read the asset: whatever
it hands the delivery to has the file as its upstream.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from prefect.assets import Asset, AssetProperties
from prefect.context import AssetContext
from prefect.events import emit_event
from prefect.types.names import MAX_ASSET_KEY_LENGTH, RESTRICTED_ASSET_CHARACTERS

from prefect_genmedia._core.model import Delivery, Job
from prefect_genmedia._prefect.markdown import escape
from prefect_genmedia._transport.urls import shown_url
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.providers.plugin import request_type

MATERIALIZED = "prefect.asset.materialization.succeeded"


def tell_assets(job: Job, made: bool = True) -> None:
    """Emit an asset event for each file of a delivered job, and let the running task pass the files on as upstream.

    Parameters:
        job: the delivered job.
        made: whether the files are new; for those that stood there already nothing is emitted.
    """
    if job.delivery is None:
        return
    related = [AssetContext.asset_as_related(each) for each in _sources(job)]
    related.append(AssetContext.related_materialized_by(f"{job.provider}/{job.model}"))
    for file in (job.delivery, *job.delivery.others):
        asset = _asset(file.uri, job)
        if asset is None:
            continue
        if made:
            resource = AssetContext.asset_as_resource(asset)
            emit_event(event=MATERIALIZED, resource=resource, related=related, payload=_metadata(job, file))
        _pass_on(asset)


def asset_key(uri: str) -> str:
    """The key of the asset that stands for a file: its URI, without credentials and signatures.

    A path becomes `file://…`. What a key may not hold becomes `_`, and a digest of the URI keeps such keys apart.

    Parameters:
        uri: a path or URL.

    Returns:
        A key as Prefect accepts it, where the URL's scheme is one that Prefect accepts.
    """
    clean = shown_url(uri) if "://" in uri else f"file://{Path(uri).absolute().as_posix()}"
    key = "".join("_" if sign in RESTRICTED_ASSET_CHARACTERS else sign for sign in clean)
    if key == clean and len(key) <= MAX_ASSET_KEY_LENGTH:
        return key
    mark = f"~{hashlib.sha256(clean.encode(errors='surrogateescape')).hexdigest()[:12]}"
    return key[: MAX_ASSET_KEY_LENGTH - len(mark)] + mark


def _asset(uri: str, job: Job) -> Asset | None:
    """The asset of a file; None where its URL is none that Prefect takes, such as `simplecache::s3://…`."""
    properties = AssetProperties(
        name=job.label or job.kind,
        description=escape(f"{job.kind} · {job.label}"[:500]),
        url=shown_url(uri) if uri.startswith(("http://", "https://")) else None,
    )
    try:
        return Asset(key=asset_key(uri), properties=properties)
    except ValueError:
        return None


def _sources(job: Job) -> list[Asset]:
    """The user's own inputs, as the ledger has them; not the masks, which live for an hour."""
    try:
        inputs = request_type(job.kind).model_validate(job.request).inputs()
    except (KeyError, InvalidRequest):  # a provider of another version
        return []
    assets = []
    for each in inputs:
        if not each.field.startswith("mask") and not each.url.startswith("data:"):
            try:
                assets.append(Asset(key=asset_key(each.url)))
            except ValueError:
                continue
    return assets


def _metadata(job: Job, file: Delivery) -> dict[str, Any]:
    """What there is to know about the file: no secret, no signed URL."""
    return {
        "uri": shown_url(file.uri) if "://" in file.uri else file.uri,
        "sha256": file.sha256,
        "bytes": file.bytes,
        "seconds": file.seconds,
        "resolution": f"{file.width}×{file.height}",
        "codec": file.codec,
        "has_audio": file.has_audio,
        "kind": job.kind,
        "label": job.label,
        "provider": job.provider,
        "model": job.model,
        "provider_job_id": job.shown_id,
        "job_key": job.key,
        "estimated_cost": job.estimated_cost,
        "currency": job.currency,
        "project": job.project,
        "tags": job.tags,
    }


def _pass_on(asset: Asset) -> None:
    """Make the file an upstream of whatever the running task hands its result to."""
    context = AssetContext.get()
    if context is not None:
        context.upstream_assets.add(asset)
        context.update_tracked_assets()

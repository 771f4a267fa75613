"""Delivered files as Prefect assets, with their inputs, origin and estimated cost.

Prefect's `@materialize` needs the asset's key before the task runs, but a file's location is known only after delivery.
So this module emits the same event after delivery, and marks the asset as read by the run: every task that receives the
delivery then has the file as an upstream asset.
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


def emit_assets(job: Job, made: bool = True) -> None:
    """Emit an asset event for each file of a delivered job, and make the files upstream of tasks that get the result.

    Args:
        job: the delivered job.
        made: whether the files are new; for existing files nothing is emitted.
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
    """Returns the key of a file's asset: its URI without credentials and signatures.

    A path becomes `file://…`. Characters not allowed in keys become `_`; a digest of the URI makes such keys unique.

    Args:
        uri: a path or URL.

    Returns:
        A key that is valid for Prefect, if Prefect accepts the URL's scheme.
    """
    clean = shown_url(uri) if "://" in uri else f"file://{Path(uri).absolute().as_posix()}"
    key = "".join("_" if sign in RESTRICTED_ASSET_CHARACTERS else sign for sign in clean)
    if key == clean and len(key) <= MAX_ASSET_KEY_LENGTH:
        return key
    mark = f"~{hashlib.sha256(clean.encode(errors='surrogateescape')).hexdigest()[:12]}"
    return key[: MAX_ASSET_KEY_LENGTH - len(mark)] + mark


def _asset(uri: str, job: Job) -> Asset | None:
    """Returns the asset of a file; None if Prefect does not accept its URL, such as `simplecache::s3://…`."""
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
    """Returns the assets of the user's inputs, from the ledger; without masks, which expire after an hour."""
    try:
        inputs = request_type(job.kind).model_validate(job.request).inputs()
    except (KeyError, InvalidRequest):  # a provider of another version of this package
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
    """Returns metadata about the file, without secrets and signed URLs."""
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
    """Make the file an upstream asset of every task that receives the running task's result."""
    context = AssetContext.get()
    if context is not None:
        context.upstream_assets.add(asset)
        context.update_tracked_assets()

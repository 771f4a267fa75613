"""Block types and Block documents: made from environment variables or a secrets file, and never shown."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import BlockType
from prefect.exceptions import ObjectNotFound
from pydantic import ValidationError

from prefect_genmedia._prefect.session import credentials_types
from prefect_genmedia.deploy.changes import Change, Outcome, compared
from prefect_genmedia.deploy.files import BLOCK_DOCUMENTS, DocumentsFile, DocumentSpec, read_spec
from prefect_genmedia.errors import InvalidRequest
from prefect_genmedia.providers.credentials import ProviderCredentials
from prefect_genmedia.text import clean_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def block_types() -> dict[str, type[Block]]:
    """The Block types that documents can be declared of, by slug."""
    types: list[type[Block]] = [*credentials_types().values(), Secret]
    return {block.get_block_type_slug(): block for block in types}


def read_secrets(path: Path, documents: Sequence[DocumentSpec]) -> dict[str, str]:
    """Read a secrets file: TOML, `NAME = "value"`, with the names of the environment variables.

    Args:
        path: the file.
        documents: the declared documents, which name the variables.

    Raises:
        InvalidRequest: it cannot be read, or has a name that no document takes; the message quotes no value.
    """
    try:
        values: dict[str, str] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {type(error).__name__}.") from None
    except tomllib.TOMLDecodeError:
        raise InvalidRequest(f'{path} is not TOML: one NAME = "value" on a line is expected.') from None
    wrong = sorted(name for name, value in values.items() if not isinstance(value, str))
    if wrong:
        raise InvalidRequest(f"{path}: {', '.join(wrong)} must be text in quotes.")
    known = [variable for spec in documents for variable in spec.fields.values()]
    unknown = [_unknown(name, known) for name in values if name not in known]
    if unknown:
        raise InvalidRequest(f"{path}: {'; '.join(unknown)}. Nothing was changed.")
    return values


def _unknown(name: str, known: Sequence[str]) -> str:
    """What a name that no document takes may be meant for."""
    shown = clean_text(name, 80)
    near = difflib.get_close_matches(name.upper(), known, n=1)
    return f"{shown} is no name in documents.yaml" + (f" (did you mean {near[0]}?)" if near else "")


def credentials_in(values: Mapping[str, str], documents: Sequence[DocumentSpec]) -> list[ProviderCredentials]:
    """The credentials that documents declare and values are given for, where no server has them.

    Args:
        values: environment variables.
        documents: the declared documents.

    Raises:
        InvalidRequest: a value cannot be right; its variable is named, and the value is not shown.
    """
    found = []
    for spec in documents:
        given = {field: values[variable] for field, variable in spec.fields.items() if values.get(variable)}
        block_type = _block_type(spec)
        if not (issubclass(block_type, ProviderCredentials) and _secrets(block_type) & given.keys()):
            continue
        try:
            block = block_type(**given)
        except ValidationError as error:
            raise InvalidRequest(f"{spec.block}: {_problems(error, spec)}.") from None
        block._block_document_name = spec.name  # the name that the ledger knows the account by
        found.append(block)
    return found


def declared_credentials(values: Mapping[str, str]) -> list[ProviderCredentials]:
    """The credentials that the shipped `documents.yaml` declares and values are given for.

    Args:
        values: environment variables.

    Raises:
        InvalidRequest: a value cannot be right; its variable is named, and the value is not shown.
    """
    return credentials_in(values, read_spec(DocumentsFile, BLOCK_DOCUMENTS, "documents.yaml").documents)


def declared_variables(provider: str) -> list[str]:
    """The environment variables that the shipped `documents.yaml` names for a provider's secrets.

    Args:
        provider: the provider's name.
    """
    slug = credentials_types()[provider].get_block_type_slug()
    documents = read_spec(DocumentsFile, BLOCK_DOCUMENTS, "documents.yaml").documents
    return [name for spec in documents if spec.block == slug for name in _entrances(spec)]


async def apply_block_type(client: PrefectClient, block: type[Block], dry: bool) -> Change:
    """Register a Block type and its schema, where the server does not have them as they are here.

    Args:
        client: speaks to the server.
        block: the Block's class.
        dry: change nothing; only say what would be done.
    """
    slug = block.get_block_type_slug()
    existing: BlockType | None = None
    same = False
    try:
        existing = await client.read_block_type_by_slug(slug)
        await client.read_block_schema_by_checksum(block._calculate_schema_checksum())
        same = _shown(existing) == (
            str(block._logo_url),
            str(block._documentation_url),
            block.get_description(),
            block.get_code_example(),
        )
    except ObjectNotFound:
        pass
    if not dry:
        await block.aregister_type_and_schema(client=client)  # changes nothing where nothing differs
    return Change("Block type", slug, compared(existing, same))


async def apply_document(
    client: PrefectClient, spec: DocumentSpec, values: Mapping[str, str], dry: bool
) -> tuple[Change, Block | None]:
    """Create or update a Block document from the values that are given for it.

    Args:
        client: the server.
        spec: the document.
        values: environment variables and secrets.
        dry: whether to look only.

    Returns:
        What was done, and the Block as it is now, if there is one.

    Raises:
        InvalidRequest: the declaration names a Block type or field that does not exist.
    """
    full_name = f"{spec.block}/{spec.name}"
    block_type = _block_type(spec)
    given = {field: values[variable] for field, variable in spec.fields.items() if values.get(variable)}
    existing = await _stored(client, block_type, spec.name)
    if not given:
        return _left(spec, full_name, existing), existing
    try:
        wanted = block_type(**_kept(existing, given), **given)
    except ValidationError as error:
        return Change("Block document", full_name, Outcome.INVALID, _problems(error, spec)), existing
    outcome = compared(existing, existing is not None and revealed(existing) == revealed(wanted))
    if outcome is not Outcome.UNCHANGED and not dry:
        await wanted.asave(spec.name, overwrite=True)
    return Change("Block document", full_name, outcome, f"from {', '.join(_variables(spec, given))}"), wanted


def _kept(existing: Block | None, given: Mapping[str, str]) -> dict[str, Any]:
    """The fields that nothing is given for, as they are on the server: a limit that was set in the UI stays.

    A new secret replaces all of them: an account is opened by one.
    """
    if existing is None:
        return {}
    secrets = _secrets(type(existing))
    gone = secrets if secrets & given.keys() else set()
    return {name: value for name, value in revealed(existing).items() if name not in gone | given.keys()}


def _secrets(block_type: type[Block]) -> set[str]:
    return {name for name, field in block_type.model_fields.items() if "SecretStr" in str(field.annotation)}


def revealed(block: Block) -> dict[str, Any]:
    """A Block's fields with its secrets in plain text, to compare; never stored or shown."""
    values = {name: getattr(block, name) for name in type(block).model_fields}
    return {
        name: value.get_secret_value() if hasattr(value, "get_secret_value") else value
        for name, value in values.items()
    }


def _left(spec: DocumentSpec, full_name: str, existing: Block | None) -> Change:
    """The row of a document that nothing was given for."""
    if existing is not None:
        return Change("Block document", full_name, Outcome.UNCHANGED, "as it is on the server")
    if spec.optional:
        return Change("Block document", full_name, Outcome.UNCHANGED, "not there, and not needed")
    return Change("Block document", full_name, Outcome.MISSING, f"set {' or '.join(_entrances(spec))}")


def _entrances(spec: DocumentSpec) -> list[str]:
    """The variables of the fields that hold secrets: what a person must set first."""
    secrets = _secrets(block_types()[spec.block])
    return [variable for field, variable in spec.fields.items() if field in secrets]


def _variables(spec: DocumentSpec, given: Mapping[str, str]) -> list[str]:
    return [variable for field, variable in spec.fields.items() if field in given]


def _block_type(spec: DocumentSpec) -> type[Block]:
    blocks = block_types()
    block_type = blocks.get(spec.block)
    if block_type is None:
        raise InvalidRequest(f"There is no Block type {spec.block!r} here; there are {', '.join(sorted(blocks))}.")
    unknown = sorted(set(spec.fields) - set(block_type.model_fields))
    if unknown:
        raise InvalidRequest(f"{spec.block} has no field {', '.join(unknown)}.")
    return block_type


async def _stored(client: PrefectClient, block_type: type[Block], name: str) -> Block | None:
    try:
        return await block_type.aload(name, client=client)
    except ValueError:  # there is none; or (a ValidationError) it was stored long ago, and is replaced
        return None


def _shown(block_type: BlockType) -> tuple[str | None, ...]:
    """What the UI shows of a Block type."""
    return (
        str(block_type.logo_url),
        str(block_type.documentation_url),
        block_type.description,
        block_type.code_example,
    )


def _problems(error: ValidationError, spec: DocumentSpec) -> str:
    """What is wrong with the values, by variable, without the values."""
    found = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(detail["loc"][0]) if detail["loc"] else ""
        found.append(f"{spec.fields.get(field, spec.block)}: {detail['msg'].removeprefix('Value error, ')}")
    return "; ".join(found)

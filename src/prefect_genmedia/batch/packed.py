"""Compact in-memory forms of a row's request and cells: a large table has a hundred thousand rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect_genmedia.providers.protocol import GenerationRequest

Names = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Shape:
    """The common parts of requests of one kind with the same set of fields."""

    model: type[GenerationRequest]
    names: Names
    fields_set: frozenset[str] = field(compare=False)


@dataclass(frozen=True, slots=True)
class PackedCells:
    """Cells of a row, by column.

    Args:
        names: the columns.
        values: the cells.
    """

    names: Names = ()
    values: tuple[Any, ...] = ()

    def unpack(self) -> dict[str, Any]:
        """Returns the cells by column."""
        return dict(zip(self.names, self.values, strict=True))


_NO_CELLS = PackedCells()


@dataclass(frozen=True, slots=True)
class PackedRequest:
    """A request without the dictionaries of a pydantic model; `unpack` rebuilds it within a few microseconds.

    Args:
        shape: its type and the names of its fields.
        values: the fields' values.
        private: its private attributes.
    """

    shape: _Shape
    values: tuple[Any, ...]
    private: PackedCells = field(default=_NO_CELLS, compare=False)

    def unpack(self) -> GenerationRequest:
        """Returns the request, without validating it again."""
        request = self.shape.model.__new__(self.shape.model)
        request.__setstate__(
            {
                "__dict__": dict(zip(self.shape.names, self.values, strict=True)),
                "__pydantic_fields_set__": set(self.shape.fields_set),
                "__pydantic_extra__": None,
                "__pydantic_private__": self.private.unpack() or None,
            }
        )
        return request


class Packer:
    """Packs requests and cells of one table; names that rows share are stored once."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[Any, ...], _Shape] = {}
        self._names: dict[Names, Names] = {}

    def request(self, request: GenerationRequest) -> PackedRequest | GenerationRequest:
        """Pack a request; a request that holds more than fields is returned unchanged.

        Args:
            request: the request.
        """
        model, values = type(request), request.__dict__
        if request.__pydantic_extra__ or values.keys() != model.model_fields.keys():
            return request
        key = (model, frozenset(request.model_fields_set))
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = _Shape(model, tuple(model.model_fields), key[1])
        private = self.cells(request.__pydantic_private__ or {})
        return PackedRequest(shape, tuple(map(values.__getitem__, shape.names)), private)

    def cells(self, cells: Mapping[str, Any]) -> PackedCells:
        """Pack cells.

        Args:
            cells: the cells by column.
        """
        return PackedCells(self._shared(tuple(cells)), tuple(cells.values())) if cells else _NO_CELLS

    def _shared(self, names: Names) -> Names:
        return self._names.setdefault(names, names)

"""Fields that nobody knows and that say nothing: clients send null for whatever their caller left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from msgspec import inspect


class _Struct(NamedTuple):
    """The names that an object may have, and the shapes of those in which there are more."""

    names: frozenset[str]
    within: dict[str, _Shape]


class _Shape(NamedTuple):
    """Where structs are: in each item of a list, or in the object itself, told apart by what it says in `tag_field`."""

    items: _Shape | None
    tag_field: str | None
    structs: dict[Any, _Struct]


def drop_unknown_nulls(value: Any, kind: Any) -> None:
    """Take from `value`, as it was read from JSON, each null whose name the type `kind` does not know at its place.

    What may be any JSON, a schema say, stays whole. Followed no deeper than types are within one another.
    """
    shape = _shape_of(kind)
    if shape is not None:
        _drop(value, shape)


def _drop(value: Any, shape: _Shape) -> None:
    if isinstance(value, list) and shape.items is not None:
        for item in value:
            _drop(item, shape.items)
    if not isinstance(value, dict):
        return
    tag = value.get(shape.tag_field) if shape.tag_field else None
    struct = shape.structs.get(tag) if isinstance(tag, str | None) else None
    if struct is None:
        return  # of no kind that there is
    if None in value.values():
        for name in [name for name, each in value.items() if each is None and name not in struct.names]:
            del value[name]
    for name, inner in struct.within.items():
        if name in value:
            _drop(value[name], inner)


@lru_cache(maxsize=256)
def _shape_of(kind: Any) -> _Shape | None:
    return _shape([inspect.type_info(kind)])


def _shape(kinds: Iterable[inspect.Type]) -> _Shape | None:
    plain = list(_plain(kinds))
    structs = [kind for kind in plain if isinstance(kind, inspect.StructType)]
    lists = [kind.item_type for kind in plain if isinstance(kind, inspect.ListType)]
    items = _shape(lists) if lists else None
    if not structs and items is None:
        return None
    return _Shape(items, structs[0].tag_field if structs else None, {kind.tag: _struct(kind) for kind in structs})


def _struct(kind: inspect.StructType) -> _Struct:
    shapes = {field.encode_name: _shape([field.type]) for field in kind.fields}
    tag = {kind.tag_field} if kind.tag_field else set()
    return _Struct(frozenset(shapes.keys() | tag), {name: shape for name, shape in shapes.items() if shape is not None})


def _plain(kinds: Iterable[inspect.Type]) -> Iterator[inspect.Type]:
    """The types that a value may be of: those of a union, and what bounds beside a type are said of."""
    for kind in kinds:
        if isinstance(kind, inspect.UnionType):
            yield from _plain(kind.types)
        elif isinstance(kind, inspect.Metadata):
            yield from _plain([kind.type])
        else:
            yield kind

"""Whether any object at all keeps a schema: a tool's arguments are one."""

from __future__ import annotations

from typing import Any

from allod.core.requests import Json
from allod.engine.schemas.refusal import refusal
from allod.engine.schemas.subschemas import REFERENCES, target_of, targets


def check_object(schema: Json) -> None:
    """Raise Invalid, naming keyword and pointer, where `type`, `const` or `enum` leave no object.

    What they say of other values, or what else an object would have to be, is not looked at. To be called once the
    schema is known to be within bounds, which also bound the schemas that are looked at here.
    """
    reason = _Objects(schema).fault(schema, "#")
    if reason is not None:
        raise refusal(f"{reason}: the arguments of a tool are an object")


class _Objects:
    """What stands in the way of an object, keyword and pointer, within one schema."""

    def __init__(self, schema: Json) -> None:
        self._targets = targets(schema)

    def fault(self, schema: Any, pointer: str) -> str | None:
        if schema is False:
            return f"false at {pointer}"
        if not isinstance(schema, dict):
            return None
        return self._own(schema, pointer) or self._all(schema, pointer) or self._any(schema, pointer)

    def _own(self, schema: dict[str, Any], pointer: str) -> str | None:
        kinds = schema.get("type", "object")
        if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
            return f"type at {pointer}"
        if "const" in schema and not isinstance(schema["const"], dict):
            return f"const at {pointer}"
        if isinstance(schema.get("enum"), list) and not any(isinstance(value, dict) for value in schema["enum"]):
            return f"enum at {pointer}"
        return None

    def _all(self, schema: dict[str, Any], pointer: str) -> str | None:
        """The first of what an object would have to keep together, and none does."""
        together = [(f"{pointer}/allOf/{index}", child) for index, child in enumerate(_list(schema, "allOf"))]
        together += filter(None, (target_of(schema.get(keyword), self._targets) for keyword in REFERENCES))
        return next(filter(None, (self.fault(child, at) for at, child in together)), None)

    def _any(self, schema: dict[str, Any], pointer: str) -> str | None:
        """A choice none of whose ways is open to an object."""
        for keyword in ("anyOf", "oneOf"):
            ways = _list(schema, keyword)
            if ways and all(self.fault(way, f"{pointer}/{keyword}/{index}") for index, way in enumerate(ways)):
                return f"{keyword} at {pointer}"
        return None


def _list(schema: dict[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []

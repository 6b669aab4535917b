"""Random JSON schemas whose answers have a bound, so that also a small model ends each of them."""

from __future__ import annotations

import random
from typing import Any

WORDS = ("name", "age", "tags", "city", "a b", "größe", 'qu"ote', "x_1", "0", "$ref")
PATTERNS = ("^[A-Z]{2}-[0-9]{1,4}$", "^(yes|no)$", "^[a-f0-9]{8}$", "^\\d{1,3}(\\.\\d{1,2})?$")
FORMATS = ("date", "uuid", "ipv4")


def random_schema(seed: int) -> dict[str, Any]:
    """An object or a list at the top, three levels deep at most."""
    draw = random.Random(seed)
    schema = draw.choice((_object, _list))(draw, 3)
    if draw.random() < 0.3:
        schema["$defs"] = {"thing": _any(draw, 1)}
        top = {"type": "object", "properties": {"it": {"$ref": "#/$defs/thing"}, "in": schema}}
        schema = {**top, "required": ["it"], "additionalProperties": False}
        schema["$defs"] = schema["properties"]["in"].pop("$defs")
    return schema


def _any(draw: random.Random, depth: int) -> dict[str, Any]:
    leaves = (_string, _integer, _number, _choice, _constant, _plain)
    nodes = (_object, _list, _tuple, _either)
    return draw.choice(leaves + nodes if depth else leaves)(draw, depth - 1)


def _string(draw: random.Random, _: int) -> dict[str, Any]:
    return draw.choice((
        {"type": "string", "maxLength": draw.randrange(1, 20)},
        {"type": "string", "minLength": 2, "maxLength": 9},
        {"type": "string", "pattern": draw.choice(PATTERNS)},
        {"type": "string", "format": draw.choice(FORMATS)},
    ))  # fmt: skip


def _integer(draw: random.Random, _: int) -> dict[str, Any]:
    least = draw.randrange(-1000, 1000)
    bounds = {"type": "integer", "minimum": least, "maximum": least + draw.randrange(1, 10**6)}
    return bounds | draw.choice(({}, {"multipleOf": draw.choice((1, 2, 5))}))


def _number(draw: random.Random, _: int) -> dict[str, Any]:
    return {"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": draw.randrange(1, 500)}


def _choice(draw: random.Random, _: int) -> dict[str, Any]:
    return {"enum": draw.sample([1, 2.5, "red", "blå", None, True, ["x"], {"k": 1}], 3)}


def _constant(draw: random.Random, _: int) -> dict[str, Any]:
    return {"const": draw.choice(("fixed", 7, False, [1, 2], "\u2028\U0001f642"))}


def _plain(draw: random.Random, _: int) -> dict[str, Any]:
    return {"type": draw.choice(("boolean", "null", ["boolean", "null"]))}


def _object(draw: random.Random, depth: int) -> dict[str, Any]:
    names = draw.sample(WORDS, draw.randrange(1, 5))
    return {
        "type": "object",
        "title": "Of no effect",
        "description": "Nor this",
        "default": {},
        "examples": [{}],
        "properties": {name: _any(draw, depth - 1) for name in names},
        "required": draw.sample(names, draw.randrange(len(names) + 1)),
        "additionalProperties": False,
    }


def _list(draw: random.Random, depth: int) -> dict[str, Any]:
    least = draw.randrange(2)
    items = _any(draw, depth - 1)
    return {"type": "array", "items": items, "minItems": least, "maxItems": least + 2}


def _tuple(draw: random.Random, depth: int) -> dict[str, Any]:
    parts = [_any(draw, depth - 1) for _ in range(2)]
    return {"type": "array", "prefixItems": parts, "items": False, "minItems": 2}


def _either(draw: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_any(draw, depth - 1) for _ in range(2)]}

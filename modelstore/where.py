"""Conditions on metrics as people write them: `skill > 0.02 and rounds <= 40`. Pure; nothing is evaluated as code.

    conditions = condition { "and" condition }
    condition  = metric operator number
    operator   = ">" | ">=" | "<" | "<=" | "=" | "==" | "!="

A version without the metric, or whose value is not known, fulfils no condition on it.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from modelstore.errors import BadQuery

#: What an operator does with two numbers, or with an array and a number.
OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
#: Longest text, and most conditions in it.
MAX_LENGTH, MAX_CONDITIONS = 1000, 32

_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))"
    r"|(?P<name>[A-Za-z_][\w.\-]*)"
    r"|(?P<operator>[<>!=]=?)"
    r"|(?P<other>\S))",
    re.ASCII,
)
_EXAMPLE = "write METRIC OPERATOR NUMBER, joined by and, such as: skill > 0.02 and rounds <= 40"


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a metric with a number."""

    metric: str
    operator: str
    number: float

    def __str__(self) -> str:
        return f"{self.metric} {self.operator} {self.number:g}"


def parse_where(text: str) -> tuple[Condition, ...]:
    """Read conditions; of an empty text none.

    Raises:
        BadQuery: the text is something else; the message says where.
    """
    if len(text) > MAX_LENGTH:
        raise BadQuery(f"conditions of {len(text)} characters are too long: up to {MAX_LENGTH} are read")
    tokens = [(str(match.lastgroup), match[match.lastgroup or 0]) for match in _TOKEN.finditer(text)]
    found: list[Condition] = []
    for start in range(0, len(tokens), 4):
        kinds = [kind for kind, _ in tokens[start : start + 3]]
        values = [value for _, value in tokens[start : start + 3]]
        for wanted, kind, value in zip(("name", "operator", "number"), kinds, values, strict=False):
            if kind != wanted or value in ("!", "and"):
                raise BadQuery(f"{value[:40]!r} stands where {_WORDS[wanted]} should: {_EXAMPLE}")
        if len(kinds) < 3:
            raise BadQuery(f"{text[-40:]!r} ends too early: {_EXAMPLE}")
        number = float(values[2])
        if not math.isfinite(number):
            raise BadQuery(f"{values[2][:40]} is too large for a number")
        found.append(Condition(values[0], values[1], number))
        joint = tokens[start + 3 : start + 4]
        if joint and joint[0][1] != "and":
            raise BadQuery(f"{joint[0][1][:40]!r} stands where `and` should: {_EXAMPLE}")
        if joint and start + 4 == len(tokens):
            raise BadQuery(f"nothing follows the last `and`: {_EXAMPLE}")
    if len(found) > MAX_CONDITIONS:
        raise BadQuery(f"{len(found)} conditions are too many: up to {MAX_CONDITIONS} are read")
    return tuple(found)


_WORDS = {"name": "a metric", "operator": "an operator (> >= < <= = !=)", "number": "a number"}


def check_known(names: Collection[str], known: Collection[str]) -> None:
    """Check that there are such metrics.

    Raises:
        BadQuery: there are not; the message names those that there are.
    """
    for name in names:
        if name in known:
            continue
        if not known:
            raise BadQuery(f"no version has a metric yet, so none has {name[:64]!r}")
        close = difflib.get_close_matches(name, list(known), 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise BadQuery(f"no version has a metric {name[:64]!r}{hint}; there are: {', '.join(sorted(known))}")

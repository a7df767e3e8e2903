"""What models and versions are called. Pure; no I/O.

A **model** is named `DATASET/TARGET`: `SPY:1m/close_5` for a series, `iris/species` for a table. A symbol may itself
hold `/` (`BTC/USD:1m/close_5`), a target never does, so the last `/` divides.

A **version** is referred to in one of these ways:

    SPY:1m/close_5              the champion of the release in force (as if `@champion` were written)
    SPY:1m/close_5@champion     what an alias of the release in force points at
    SPY:1m/close_5@latest       the version with the highest number; `latest` is no alias and cannot be set
    SPY:1m/close_5@3            the version with this number
    SPY:1m/close_5@sha:a1b2c3   the version of this model whose digest begins so
    a1b2c3, sha:a1b2c3          the version of any model whose digest begins so

Digests are 64 lower-case hex digits; a beginning has at least 6. A name holds a `/`, a digest does not, so the forms
cannot be taken for one another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from streams.errors import BadName
from streams.series import Series

#: The alias that scorers serve.
CHAMPION = "champion"
#: The alias of a version that is scored beside the champion, to be judged.
CHALLENGER = "challenger"
#: Points at the champion once its skill is shown; a champion that it does not point at is on probation.
PROVEN = "proven"
#: Stands for the highest number in a reference.
LATEST = "latest"
#: Fewest hex digits that a digest may be shortened to.
SHORTEST_PREFIX = 6

_TABLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}", re.ASCII)
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}", re.ASCII)
_ALIAS = re.compile(r"[a-z][a-z0-9_\-]{0,31}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PREFIX = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", re.ASCII)
_SHA = "sha:"

_METRIC = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}", re.ASCII)
_TAG_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-/]{0,63}", re.ASCII)
#: Longest value of a tag, in characters, and most tags of one version.
MAX_TAG_VALUE, MAX_TAGS = 256, 64

_FORMS = "write NAME, NAME@ALIAS, NAME@NUMBER, NAME@sha:DIGEST or DIGEST, such as SPY:1m/close_5@champion"


def check_alias(text: str) -> str:
    """Return `text` if it can be an alias.

    Raises:
        BadName: it cannot.
    """
    if _ALIAS.fullmatch(text) and text != LATEST:
        return text
    raise BadName(
        f"{text[:80]!r} cannot be an alias: use 1 to 32 of the letters a-z, digits and _ -, beginning with a letter; "
        f"{LATEST!r} is reserved"
    )


def check_digest(text: str) -> str:
    """Return `text` if it is a whole digest.

    Raises:
        BadName: it is not.
    """
    if _DIGEST.fullmatch(text):
        return text
    raise BadName(f"{text[:80]!r} is no digest: 64 hex digits in lower case are needed")


def is_prefix(text: str) -> bool:
    """Whether `text` can be the beginning of a digest: 6 to 64 hex digits in lower case."""
    return _PREFIX.fullmatch(text) is not None


def is_metric(text: str) -> bool:
    """Whether a metric of this name can be searched for."""
    return _METRIC.fullmatch(text) is not None and text != "and"


def check_tag_key(text: str) -> str:
    """Return `text` if it can be a tag, or the key of one.

    Raises:
        BadName: it cannot.
    """
    if _TAG_KEY.fullmatch(text):
        return text
    raise BadName(
        f"{text[:80]!r} cannot be a tag: write WORD or KEY=VALUE, the key with 1 to 64 of the letters A-Z a-z, digits "
        "and _ . - /, beginning with a letter or digit"
    )


def parse_tag(text: str) -> tuple[str, str]:
    """Read `WORD` or `KEY=VALUE`; the value of a word is empty.

    Raises:
        BadName: it is neither.
    """
    key, equals, value = text.partition("=")
    check_tag_key(key)
    if (equals and not value) or len(value) > MAX_TAG_VALUE or not value.isprintable():
        raise BadName(f"the value of tag {key} must have 1 to {MAX_TAG_VALUE} printable characters")
    return key, value


class ModelName(NamedTuple):
    """The name of a model: `series` (a series such as `SPY:1m`, or a table such as `iris`) and `target`."""

    series: str
    target: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read `"SPY:1m/close_5"`.

        The series is put in its one spelling: `SPY:60s/close_5` is `SPY:1m/close_5`.

        Raises:
            BadName: the text names no model.
        """
        dataset, slash, target = text.rpartition("/")
        if not slash or not _TARGET.fullmatch(target):
            raise BadName(
                f"{text[:160]!r} names no model: write SERIES/TARGET, such as SPY:1m/close_5, the target with up to 64 "
                "of the letters A-Z a-z, digits and . _ -"
            )
        if ":" in dataset:
            return cls(str(Series.parse(dataset)), target)
        if not _TABLE.fullmatch(dataset):
            raise BadName(
                f"{text[:160]!r} names no model: before the last / stands a series such as SPY:1m, or a table's name "
                "with up to 64 of the letters A-Z a-z, digits and . _ -"
            )
        return cls(dataset, target)

    def __str__(self) -> str:
        return f"{self.series}/{self.target}"


def check_name(text: str) -> str:
    """Return `text` if it is a model's name in its one spelling.

    Raises:
        BadName: it is not.
    """
    name = str(ModelName.parse(text))
    if name == text:
        return text
    raise BadName(f"{text[:160]!r} is not how this model is written: write {name}")


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A reference to one version; exactly one of `alias`, `number` and `prefix` is set.

    Attributes:
        name: the model; `None` only with a `prefix`.
        alias: an alias, or `latest`.
        number: the version's number, from 1.
        prefix: the beginning of the digest, or all of it.
    """

    name: ModelName | None = None
    alias: str | None = None
    number: int | None = None
    prefix: str | None = None

    @classmethod
    def parse(cls, text: str) -> VersionRef:
        """Read one of the forms that this module opens with.

        Raises:
            BadName: the text refers to no version.
        """
        if "/" not in text:
            return cls(prefix=_prefix_of(text.removeprefix(_SHA), text))
        # A symbol may hold `@`; what follows the last `/` holds at most one.
        slash = text.rindex("/")
        tail, at, which = text[slash:].partition("@")
        name = ModelName.parse(text[:slash] + tail)
        if not at:
            return cls(name, alias=CHAMPION)
        if which.startswith(_SHA):
            return cls(name, prefix=_prefix_of(which.removeprefix(_SHA), text))
        if _NUMBER.fullmatch(which):
            return cls(name, number=int(which))
        if which == LATEST or _ALIAS.fullmatch(which):
            return cls(name, alias=which)
        raise BadName(f"{text[:160]!r} refers to no version: {_FORMS}")

    def __str__(self) -> str:
        if self.name is None:
            return f"{_SHA}{self.prefix}"
        if self.prefix is not None:
            return f"{self.name}@{_SHA}{self.prefix}"
        return f"{self.name}@{self.alias if self.number is None else self.number}"


def _prefix_of(digits: str, text: str) -> str:
    if is_prefix(digits):
        return digits
    raise BadName(
        f"{text[:160]!r} refers to no version: {_FORMS}; a digest has {SHORTEST_PREFIX} to 64 hex digits in lower case"
    )

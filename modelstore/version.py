"""The identity of a version. Pure; no I/O.

A version has four parts: the manifest (canonical JSON), the serving block, the forest, and the XGBoost model (UBJ). Its
**digest** is a two-level hash, so that each part can be checked without reading the others:

    parts  = SHA-256(manifest) | SHA-256(serving) | SHA-256(forest) | SHA-256(ubj)      4 × 32 bytes, in this order
    digest = SHA-256("red10 version 1\\n" | parts)                                       written as 64 hex digits

The parts are hashed as they are before compression. `parts` is stored beside them: a scorer, which reads only serving
block and forest, checks both against the digest that its release names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import ValidationError

from modelstore.errors import BadModel
from modelstore.forest import Forest
from modelstore.manifest import MAX_MANIFEST, Manifest, Serving

#: The parts in the order in which they are hashed; also the names of their fields in Redis.
PARTS = ("manifest", "serving", "forest", "ubj")
_PREFIX = b"red10 version 1\n"
_SIZE = 32


def digest_of(parts: bytes) -> str:
    """The digest of a version, from the joined hashes of its parts."""
    return hashlib.sha256(_PREFIX + parts).hexdigest()


def hash_parts(manifest: bytes, serving: bytes, forest: bytes, ubj: bytes) -> bytes:
    """The joined hashes of the parts, 128 bytes."""
    return b"".join(hashlib.sha256(part).digest() for part in (manifest, serving, forest, ubj))


def check_parts(digest: str, parts: bytes, **found: bytes) -> None:
    """Check parts of a version, named as in `PARTS`, against its digest.

    Raises:
        BadModel: a part or the list of hashes is not what the digest stands for.
    """
    if len(parts) != _SIZE * len(PARTS) or digest_of(parts) != digest:
        raise BadModel(f"version {digest[:12]} is damaged: its list of hashes does not give its digest; {_REMEDY}")
    for name, raw in found.items():
        at = PARTS.index(name) * _SIZE
        if hashlib.sha256(raw).digest() != parts[at : at + _SIZE]:
            raise BadModel(f"version {digest[:12]} is damaged: its {name} is not what was stored; {_REMEDY}")


_REMEDY = "restore it from a snapshot, or train the model again"


@dataclass(frozen=True, slots=True)
class RawVersion:
    """A version as its parts are hashed, before compression: what is stored, exported and imported.

    Attributes:
        manifest: canonical JSON.
        serving: a serving block.
        forest: a packed forest.
        ubj: the XGBoost model in its binary JSON.
    """

    manifest: bytes = field(repr=False)
    serving: bytes = field(repr=False)
    forest: bytes = field(repr=False)
    ubj: bytes = field(repr=False)

    @property
    def parts(self) -> bytes:
        """Hashes of the parts, 128 bytes."""
        return hash_parts(self.manifest, self.serving, self.forest, self.ubj)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A version about to be stored: its parts, and what they say.

    Attributes:
        digest: the version's identity.
        manifest: the one in `raw`.
        tags: set along with it if it is new: key -> value, "" for a word.
    """

    digest: str
    raw: RawVersion = field(repr=False)
    manifest: Manifest = field(repr=False)
    tags: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def read_manifest(raw: bytes, digest: str) -> Manifest:
    """The manifest of a version, from its JSON.

    Raises:
        BadModel: another Red10 wrote it.
    """
    try:
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise BadModel(
            f"the manifest of version {digest[:12]} was written by another version of Red10 ({error}): use that one"
        ) from error


def check_agreement(digest: str, manifest: Manifest, serving: bytes, forest: bytes) -> None:
    """Check that parts whose hashes are right fit each other, and that the forest is one.

    Raises:
        BadModel: they do not; `BadForest` for a forest that is none.
    """
    block, trees = Serving.decode(serving), Forest.decode(forest)
    if manifest.trained_through != block.trained_through:
        raise BadModel(f"version {digest[:12]}: manifest and serving block disagree on trained_through")
    if trees.n_features != len(block.low):
        raise BadModel(
            f"version {digest[:12]}: the forest takes {trees.n_features} features, the serving block {len(block.low)}"
        )


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version to be stored. Equal digests are equal versions.

    Attributes:
        manifest: what it is.
        serving: what scorers need besides the forest.
        forest: as `modelstore.compiler` packs it.
        ubj: the XGBoost model in its binary JSON.
        parts: hashes of the parts.
        digest: the version's identity, 64 hex digits.

    Raises:
        BadModel: manifest and serving block contradict each other, or the manifest is too large to be read again.
    """

    manifest: Manifest = field(compare=False)
    serving: Serving = field(compare=False, repr=False)
    forest: bytes = field(compare=False, repr=False)
    ubj: bytes = field(compare=False, repr=False)
    parts: bytes = field(init=False, compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        name = self.manifest.name
        if self.manifest.trained_through != self.serving.trained_through:
            raise BadModel(
                f"{name}: manifest and serving block disagree on trained_through "
                f"({self.manifest.trained_through} and {self.serving.trained_through})"
            )
        if self.serving.low.shape != self.serving.high.shape or self.serving.low.ndim != 1:
            raise BadModel(f"{name}: the serving block needs one low and one high per feature")
        raw = self.raw()
        if len(raw.manifest) > MAX_MANIFEST:
            raise BadModel(
                f"{name}: its manifest has {len(raw.manifest):,} bytes, {MAX_MANIFEST:,} at most can be stored: train "
                "on fewer columns or shorter texts"
            )
        object.__setattr__(self, "parts", raw.parts)
        object.__setattr__(self, "digest", digest_of(self.parts))

    def raw(self) -> RawVersion:
        """The parts as they are hashed."""
        return RawVersion(self.manifest.canonical(), self.serving.encode(), self.forest, self.ubj)


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What the store says of a version it holds.

    Attributes:
        number: counts the versions of one model in the order of their arrival, from 1; for people.
        created_ms: when it was stored, epoch ms of the store's clock.
    """

    digest: str
    name: str
    number: int
    created_ms: int

"""What a scorer holds in memory: champions and challengers of one release, packed for the kernel. Immutable.

A release that follows another is loaded by reading only the versions that the other lacks. A version that cannot be
served (missing, damaged, made for other features) is left out and named in `refused`: one bad model does not stop the
others. Every serving block and forest is checked against the digest that the release names, and each forest for bounds.

What is loaded is a function of the release's id, the targets and the feature count alone, so every worker that loads a
release from a sound store scores alike. No store is asked once a release is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelstore.bulk import ServingBlobs
from modelstore.errors import BadModel
from modelstore.forest import Transform
from modelstore.forest_table import ForestBuffer
from modelstore.kernel import ForestPack
from modelstore.manifest import Serving
from modelstore.names import CHALLENGER, CHAMPION, PROVEN
from modelstore.releases import Releases
from modelstore.servings import decode_servings
from modelstore.version import check_parts
from modelstore.versions import VersionStore


@dataclass(frozen=True, slots=True, eq=False)
class SeriesModels:
    """The champions of one series, or its challengers; T of them.

    Attributes:
        series: `SPY:1m`.
        targets: those of the pipeline's targets that have one, in the pipeline's order.
        versions: digest per target.
        forest_index: int32 (T,), place of each forest in the pack.
        trained_through: int64 (T,), epoch ns.
        low: float32 (T, F), smallest value of each feature in training.
        high: float32 (T, F), largest value of each feature in training.
        naive: per target the kind of the naive forecast that the margins are added to, and its numbers.
        proven: bool (T,), whether the version's skill has been shown; false for challengers.
    """

    series: str
    targets: tuple[str, ...]
    versions: tuple[str, ...]
    forest_index: NDArray[np.int32]
    trained_through: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    naive: tuple[tuple[int, NDArray[np.float32]], ...]
    proven: NDArray[np.bool_]


#: So many versions are read before their forests are joined to the others: they then still lie in the cache.
_TAKEN = 100


class _Fresh(NamedTuple):
    """A version that was read, whose bytes are sound, and whose forest stands in the buffer."""

    serving: Serving
    created_ms: int


class _Held(NamedTuple):
    """A version that is served, and the place of its forest in the pack."""

    serving: Serving
    created_ms: int
    place: int


@dataclass(frozen=True, slots=True, eq=False)
class LoadedRelease:
    """The champions and challengers of a release, ready to score.

    Attributes:
        id: the release's id; "" if there is no release yet.
        number: its number if it was in force when it was loaded, else `None`.
        oldest_created_ms: when the oldest of its versions was stored, epoch ms; `None` without any.
        refused: `NAME` -> why a version of this model is not served.
    """

    id: str
    number: int | None = None
    oldest_created_ms: int | None = None
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    _groups: Mapping[str, SeriesModels] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    _challengers: Mapping[str, SeriesModels] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    _held: Mapping[str, _Held] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    _pack: ForestPack | None = field(default=None, repr=False)

    @property
    def models(self) -> int:
        """How many models are served: those with a champion."""
        return sum(len(group.targets) for group in self._groups.values())

    @property
    def series(self) -> tuple[str, ...]:
        """The series that have a champion, sorted."""
        return tuple(sorted(self._groups))

    def group(self, series: str) -> SeriesModels | None:
        """The champions of a series, or `None` if it has none."""
        return self._groups.get(series)

    def challengers(self, series: str) -> SeriesModels | None:
        """The challengers of a series, or `None` if it has none."""
        return self._challengers.get(series)

    def score(self, rows: NDArray[np.float32], groups: Sequence[SeriesModels]) -> list[NDArray[np.float32]]:
        """Score each row with all models of its series, in one call of the kernel.

        Args:
            rows: float32 (n, F), NaN for missing.
            groups: n groups of *this* release.

        Returns:
            For each row float32 (T,), the margins of its group's models.

        Raises:
            BadModel: the rows have another number of features than the models.
        """
        if not groups:
            return []
        assert self._pack is not None, "a group comes from a release with models"
        counts = [len(group.targets) for group in groups]
        row_index = np.repeat(np.arange(len(groups), dtype=np.int32), counts)
        forest_index = np.concatenate([group.forest_index for group in groups])
        scores = self._pack.score_pairs(np.ascontiguousarray(rows, np.float32), row_index, forest_index)
        ends = np.cumsum(counts).tolist()
        return [scores[end - count : end] for count, end in zip(counts, ends, strict=True)]


#: What a scorer holds before there is any release: it scores nothing.
EMPTY = LoadedRelease("")


def load_release(
    store: VersionStore,
    releases: Releases,
    release_id: str,
    *,
    targets: Sequence[str],
    feature_count: int,
    features: bytes,
    previous: LoadedRelease | None = None,
    number: int | None = None,
) -> LoadedRelease:
    """Load the champions and challengers of a release. Blocks: use a thread.

    Args:
        targets: the pipeline's targets; versions for others are passed over.
        feature_count: features of a row; a version that takes another number is refused.
        features: id of the feature set (`modelstore.manifest.feature_set_id`); a version of another one is refused.
        previous: a release, loaded for the same features, whose versions need not be read again.
        number: of the release, if it is in force.

    Raises:
        NotFound: the store does not hold the release.
        BadModel: the release itself is damaged.
        redis.RedisError: as the driver raises it.
    """
    holders = _holders(releases.get(release_id).aliases, targets)
    champions = holders[CHAMPION]
    challengers = {
        model: digest for model, digest in holders[CHALLENGER].items() if champions.get(model) not in (None, digest)
    }
    wanted = {
        digest: f"{series}/{target}"
        for holders in (champions, challengers)
        for (series, target), digest in holders.items()
    }
    pack = previous._pack if previous is not None else None
    if pack is not None and pack.n_features != feature_count:
        pack = None
    known = previous._held if previous is not None and pack is not None else {}
    kept = [digest for digest in wanted if digest in known]
    missing = {digest: name for digest, name in wanted.items() if digest not in known}
    buffer = ForestBuffer(len(wanted))
    for digest in kept:
        assert pack is not None, "what is known lies in it"
        buffer.add(pack.blob(known[digest].place))
    fresh, refused = _read(store, missing, feature_count, features, buffer)
    try:
        pack = _pack(buffer, len(kept), feature_count)
    except BadModel:
        fresh, unfit, buffer = _fitting(buffer, len(kept), fresh, feature_count)
        refused |= {missing[digest]: reason for digest, reason in unfit.items()}
        pack = _pack(buffer, len(kept), feature_count)
    held = {digest: known[digest]._replace(place=place) for place, digest in enumerate(kept)}
    held |= {
        digest: _Held(version.serving, version.created_ms, len(kept) + place)
        for place, (digest, version) in enumerate(fresh.items())
    }
    proven = {model for model, digest in holders[PROVEN].items() if champions.get(model) == digest}
    return LoadedRelease(
        id=release_id,
        number=number,
        oldest_created_ms=min((version.created_ms for version in held.values()), default=None),
        refused=MappingProxyType(refused),
        _groups=MappingProxyType(_groups(champions, held, proven)),
        _challengers=MappingProxyType(_groups(challengers, held, set())),
        _held=MappingProxyType(held),
        _pack=pack,
    )


def _holders(aliases: Mapping[tuple[str, str], str], targets: Sequence[str]) -> dict[str, dict[tuple[str, str], str]]:
    """Alias -> (series, target) -> digest, of the models that this pipeline serves, in a fixed order."""
    order = {target: index for index, target in enumerate(targets)}
    found: dict[str, list[tuple[str, int, str, str]]] = {CHAMPION: [], CHALLENGER: [], PROVEN: []}
    for (name, alias), digest in aliases.items():
        series, _, target = name.rpartition("/")
        # A table may have a column that is called like a target.
        if alias in found and target in order and ":" in series:
            found[alias].append((series, order[target], target, digest))
    return {
        alias: {(series, target): digest for series, _, target, digest in sorted(held)} for alias, held in found.items()
    }


def _read(
    store: VersionStore, missing: Mapping[str, str], feature_count: int, features: bytes, buffer: ForestBuffer
) -> tuple[dict[str, _Fresh], dict[str, str]]:
    """Read versions (digest -> name) and put the forests of those that fit into the buffer, in the order of the first.

    Returns:
        Those that fit, and why the others are refused (name -> reason).
    """
    fresh: dict[str, _Fresh] = {}
    refused: dict[str, str] = {}
    sound: list[tuple[str, str, ServingBlobs]] = []

    def take() -> None:
        servings = decode_servings([blobs.serving for _, _, blobs in sound])
        for (digest, name, blobs), serving in zip(sound, servings, strict=True):
            reason = _misfit(digest, serving, feature_count, features)
            if reason is None:
                assert isinstance(serving, Serving), "what could not be decoded has a reason"
                fresh[digest] = _Fresh(serving, blobs.created_ms)
                buffer.add(blobs.forest)
            else:
                refused[name] = reason
        sound.clear()

    for (digest, name), blobs in zip(missing.items(), store.load_serving(list(missing)), strict=True):
        try:
            if blobs is None:
                raise BadModel(f"the store does not hold version {digest[:12]}, or not all of it")
            if blobs.name != name:
                raise BadModel(f"version {digest[:12]} is of model {blobs.name}")
            check_parts(digest, blobs.parts, serving=blobs.serving, forest=blobs.forest)
            sound.append((digest, name, blobs))
        except BadModel as error:
            refused[name] = str(error)
        if len(sound) == _TAKEN:
            take()
    take()
    return fresh, refused


def _misfit(digest: str, serving: Serving | BadModel, feature_count: int, features: bytes) -> str | None:
    """Why a version cannot be served by this pipeline; `None` if it can."""
    if isinstance(serving, BadModel):
        return str(serving)
    found = len(serving.low)
    if found != feature_count:
        return f"version {digest[:12]} takes {found} features, the pipeline makes {feature_count}: train it again"
    if serving.features != features:
        return f"version {digest[:12]} was trained on another feature set: train it again"
    return None


def _pack(buffer: ForestBuffer, sound: int, feature_count: int) -> ForestPack:
    """The forests of a buffer, the first `sound` of which come from a pack.

    Raises:
        BadModel: one cannot be packed, or is no regression with one output.
    """
    pack = ForestPack.of(buffer, feature_count, sound=sound)
    head = pack.table.header
    wrong = (head["outputs"] != 1) | (head["transform"] != Transform.IDENTITY)
    if wrong.any():
        at = int(wrong.argmax())
        outputs, transform = int(head["outputs"][at]), Transform(int(head["transform"][at])).name.lower()
        raise BadModel(
            f"its forest has {outputs} outputs and the transform {transform}; a model of a series has one and none"
        )
    return pack


def _fitting(
    buffer: ForestBuffer, sound: int, fresh: Mapping[str, _Fresh], feature_count: int
) -> tuple[dict[str, _Fresh], dict[str, str], ForestBuffer]:
    """Try forests of which some cannot be packed one by one. That is slow, and rare: they are as they were stored.

    Returns:
        Those that can, why others cannot (digest -> reason), and a buffer without the latter.
    """
    fitting: dict[str, _Fresh] = {}
    unfit: dict[str, str] = {}
    without = ForestBuffer(len(buffer))
    for place in range(sound):
        without.add(buffer.blob(place))
    for place, (digest, version) in enumerate(fresh.items(), sound):
        alone = ForestBuffer(1)
        alone.add(buffer.blob(place))
        try:
            _pack(alone, 0, feature_count)
        except BadModel as error:
            unfit[digest] = f"version {digest[:12]}: {error}"
        else:
            fitting[digest] = version
            without.add(buffer.blob(place))
    return fitting, unfit, without


def _groups(
    holders: Mapping[tuple[str, str], str], held: Mapping[str, _Held], proven: set[tuple[str, str]]
) -> dict[str, SeriesModels]:
    members: dict[str, list[tuple[str, str]]] = {}
    for (series, target), digest in holders.items():
        if digest in held:
            members.setdefault(series, []).append((target, digest))
    return {series: _group(series, found, held, proven) for series, found in members.items()}


def _group(
    series: str, members: Sequence[tuple[str, str]], held: Mapping[str, _Held], proven: set[tuple[str, str]]
) -> SeriesModels:
    versions = [held[digest] for _, digest in members]
    return SeriesModels(
        series=series,
        targets=tuple(target for target, _ in members),
        versions=tuple(digest for _, digest in members),
        forest_index=np.array([version.place for version in versions], np.int32),
        trained_through=np.array([version.serving.trained_through for version in versions], np.int64),
        low=np.stack([version.serving.low for version in versions]).astype(np.float32),
        high=np.stack([version.serving.high for version in versions]).astype(np.float32),
        naive=tuple((version.serving.naive, version.serving.naive_table) for version in versions),
        proven=np.array([(series, target) in proven for target, _ in members]),
    )

"""Whether models of one environment can serve in another: the same features, targets and intervals. Pure; no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from modelstore.names import ModelName
from streams.settings import Pipeline


@dataclass(frozen=True, slots=True)
class Needs:
    """What models are made for, or what workers run.

    Attributes:
        features: feature sets, as `NAME VERSION (N columns)` and their canonical JSON.
        targets: of models of series, such as `close_5`.
        intervals: of their bars; empty where that is not known.
        of: whose they are, for messages.
    """

    features: frozenset[tuple[str, bytes]]
    targets: frozenset[str]
    intervals: frozenset[str]
    of: str


def needs_of_models(models: Iterable[tuple[str, Mapping[str, Any]]], of: str) -> Needs:
    """What models need, given as name and feature set (as in their manifests). Those of tables have no pipeline."""
    features: set[tuple[str, bytes]] = set()
    targets: set[str] = set()
    intervals: set[str] = set()
    for text, feature_set in models:
        name = ModelName.parse(text)
        if ":" not in name.series:
            continue
        features.add(_features(feature_set))
        targets.add(name.target)
        intervals.add(name.series.rpartition(":")[2])
    return Needs(frozenset(features), frozenset(targets), frozenset(intervals), of)


def needs_of_pipeline(pipeline: Pipeline, feature_set: Mapping[str, Any], of: str) -> Needs:
    """What the workers of a tenant run."""
    return Needs(frozenset([_features(feature_set)]), frozenset(pipeline.targets), frozenset(pipeline.intervals), of)


def _features(feature_set: Mapping[str, Any]) -> tuple[str, bytes]:
    told = f"{feature_set.get('name')} {feature_set.get('version')} ({len(feature_set.get('columns', ()))} columns)"
    return told, orjson.dumps(feature_set, option=orjson.OPT_SORT_KEYS)


def differences(models: Needs, there: Needs) -> Iterator[str]:
    """Why models must not go there; nothing if they may."""
    strange = models.features - there.features
    if strange:
        told = ", ".join(sorted(name for name, _ in strange))
        have = _listed(name for name, _ in there.features)
        yield f"the snapshot's models take feature set {told}; {there.of}: {have}"
    if models.targets != there.targets:
        more, fewer = models.targets - there.targets, there.targets - models.targets
        said = [f"{word} {_listed(part)}" for word, part in (("it also has", more), ("it lacks", fewer)) if part]
        yield f"the snapshot's targets are not those of {there.of}: {', '.join(said)}"
    if models.intervals - there.intervals:
        yield (
            f"the snapshot has models of bars of {_listed(models.intervals - there.intervals)}; {there.of}: "
            f"{_listed(there.intervals)}"
        )


def _listed(words: Iterable[str]) -> str:
    found = sorted(set(words))
    return ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "") or "none"

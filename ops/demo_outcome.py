"""What a run of the demo did: its figures, the digest over its outputs, and what its report tells of it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ops.demo_trials import Crash, Latency
from ops.report_model import Fact
from ops.tiling import Tiling
from producers.bars import TICKS_PER_BAR
from producers.sample import stock_splits
from streams.records import Outcome as Judged
from streams.records import Signal


@dataclass(slots=True)
class SeriesCount:
    """What became of one series.

    Attributes:
        models, proven: models in force at the end, and how many of them are proven.
        predictions, judged: bar closes with predictions, and such that judged earlier ones.
        refused: why the last training was refused, if it was.
    """

    ticks: int = 0
    bars: int = 0
    models: int = 0
    proven: int = 0
    trainings: int = 0
    predictions: int = 0
    judged: int = 0
    signals: int = 0
    refused: str = ""


@dataclass(slots=True)
class Outcome:
    """What a run did.

    Attributes:
        digest: SHA-256 over all signals and outcomes; the same for every run on the same libraries.
        replay_s, training_s: seconds spent publishing and scoring at full speed, and waiting for training.
        replayed: ticks that went through in `replay_s`.
        requested, promotions, drifts: trainings that the monitor asked for, challengers that it made champions, and
            alarms, one per model.
        crash, latency: what the second half measured; `latency` is `None` if nothing was put out meanwhile.
        tiling: ticks lost and doubled, counted at the end.
        headline: the sentences that the report opens with.
        report: its file.
    """

    tenant: str
    series: dict[str, SeriesCount] = field(default_factory=dict)
    digest: str = ""
    seconds: float = 0.0
    replay_s: float = 0.0
    replayed: int = 0
    training_s: float = 0.0
    versions: int = 0
    requested: int = 0
    promotions: int = 0
    drifts: int = 0
    crash: Crash | None = None
    latency: Latency | None = None
    tiling: Tiling = field(default_factory=Tiling)
    headline: tuple[str, ...] = ()
    report: Path | None = None


def outputs_digest(records: Iterable[Signal | Judged]) -> str:
    """SHA-256 over records in order of time and series; `src` names entry ids, which differ from run to run."""
    lines = sorted((record.ts, record.series, record.model_dump_json(exclude={"src"})) for record in records)
    return hashlib.sha256("\n".join(text for _, _, text in lines).encode()).hexdigest()


def facts_of(outcome: Outcome) -> list[Fact]:
    """What a run measured, for its report."""
    tiling = outcome.tiling
    facts = [
        Fact("ticks", f"{tiling.ticks:,}", f"{tiling.lost} lost, {tiling.doubled} counted twice, by a recount"),
        Fact(
            "model versions trained",
            f"{outcome.versions:,}",
            f"{outcome.requested} of the trainings by request of the monitor",
        ),
        Fact("promotions", f"{outcome.promotions}", f"{outcome.drifts} alarms of drift, one per model"),
    ]
    if outcome.crash is not None:
        killed = " and ".join(outcome.crash.killed)
        back = f"with all {outcome.crash.models} models, after {killed} were killed"
        facts.append(Fact("back after a crash", f"{outcome.crash.back_s:.1f} s", back))
    if outcome.latency is not None:
        rate = f"tick to signal at {outcome.latency.rate:,.0f} ticks/s"
        facts.append(Fact("latency, p50", f"{outcome.latency.p50_ms:.1f} ms", rate))
        facts.append(Fact("latency, p99", f"{outcome.latency.p99_ms:.1f} ms", rate))
    facts.append(Fact("digest", outcome.digest[:16], "of all signals and outcomes: the same in every run"))
    return facts


def replayed_text() -> str:
    """What the data is, as a caveat."""
    return (
        f"Daily bars replayed as ticks. Each bar became {TICKS_PER_BAR} ticks in an order that the data does not tell; "
        f"prices are adjusted for splits ({splits_text()}), not for dividends."
    )


def splits_text() -> str:
    """The splits that the sample data is adjusted for, in words."""
    return ", ".join(f"{split.symbol} {split.day:%Y-%m-%d} ({split.ratio:g}:1)" for split in stock_splits())

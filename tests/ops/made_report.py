"""Made-up reports: everything that a page can show, as a function of a seed."""

from __future__ import annotations

import numpy as np

from ops.report_model import (
    Cell,
    Equity,
    Event,
    Expectation,
    Fact,
    Figures,
    Forecasts,
    Kind,
    Report,
    Rolling,
    SeriesReport,
    Signal,
    Table,
)

DAY = 86_400 * 1_000_000_000
COLUMNS = ("open", "high", "low", "close", "volume")
HORIZONS = (5, 10, 15, 20, 25, 30)
#: Skill that each column's models have, in standard errors, and in size.
FOUND = {"open": (0.3, 0.002), "high": (3.0, 0.04), "low": (5.5, 0.06), "close": (-0.8, -0.006), "volume": (9.0, 0.21)}


def made_series(name: str = "AAPL:1d", kind: Kind = "real", *, bars: int = 2600, seed: int = 1) -> SeriesReport:
    """A series with all its parts."""
    rng = np.random.default_rng(seed)
    ts = np.datetime64("2003-01-01", "ns").astype(np.int64) + DAY * np.arange(bars)
    moves = rng.normal(0.0006, 0.015, bars)
    close = 20 * np.exp(np.cumsum(moves))
    position = np.repeat(rng.integers(-1, 2, bars // 40 + 1), 40)[:bars]
    profit = np.concatenate(([0.0], position[:-1] * moves[1:]))
    changed = np.flatnonzero(np.diff(position)) + 1
    signals = tuple(
        Signal(int(ts[at]), "buy" if position[at] > position[at - 1] else "sell", int(position[at]), float(close[at]))
        for at in changed
    )
    luck = np.cumsum(rng.normal(0.0001, 0.013, (300, bars)), axis=1)
    at = np.unique(np.linspace(0, bars - 1, 300).astype(int))
    said = rng.normal(0, 0.01, bars)
    return SeriesReport(
        name=name,
        kind=kind,
        ts=ts,
        close=close,
        cells=tuple(made_cell(f"{column}_{horizon}", kind, rng) for column in COLUMNS for horizon in HORIZONS),
        signals=signals,
        forecasts=Forecasts("close_10", ts, said, 0.3 * said + rng.normal(0, 0.04, bars)),
        equity=Equity(
            ts,
            np.cumsum(profit),
            np.cumsum(moves),
            ts[at],
            np.quantile(luck[:, at], (0.05, 0.25, 0.5, 0.75, 0.95), axis=0),
            (0.05, 0.25, 0.5, 0.75, 0.95),
            1000,
            0.62,
            (
                Figures("paper account", float(profit.sum()), 0.021, 0.31, 0.34, 0.66, 9.1),
                Figures("buy and hold", float(moves.sum()), 0.14, 0.6, 0.51, 1.0, 0.1),
                Figures("cash", 0.0, 0.0, None, 0.0, 0.0, 0.0),
            ),
        ),
        rolling=(
            Rolling("close_10", 250, ts[300:], np.convolve(rng.normal(0, 0.6, bars), np.ones(250) / 250, "same")[300:]),
            Rolling("volume_10", 250, ts[300:], 0.2 + 0.05 * np.sin(np.arange(bars - 300) / 200)),
        ),
        events=made_events(ts, kind),
        notes=("An imagined series.",) if kind != "real" else (),
    )


def made_cell(target: str, kind: Kind, rng: np.random.Generator) -> Cell:
    """A cell with a skill about that of its column."""
    column = target.split("_")[0]
    if kind == "random" and column == "close":
        return Cell(target, 2100, 0.0, naive="no change", trees=0)
    t, size = FOUND[column] if kind == "real" else (0.0, 0.004) if kind == "random" else (8.0, 0.3)
    error = abs(size / t) if t else size
    noise = float(rng.normal())
    skill = (t + noise) * error
    p = float(np.clip(0.5 * np.exp(-0.8 * (t + noise) ** 2), 1e-12, 0.5))
    return Cell(
        target=target,
        n=2100,
        skill=skill,
        low=skill - 2 * error,
        high=skill + 2 * error,
        p=p if t + noise > 0 else 1 - p,
        naive="persistence" if column in ("open", "high", "low", "volume") else "no change",
        hits=0.53 if column == "close" else None,
        up=0.56 if column == "close" else None,
        trees=22.0,
    )


def made_events(ts: np.ndarray[tuple[int], np.dtype[np.int64]], kind: Kind) -> tuple[Event, ...]:
    """A yearly training; for the planted series the whole sequence."""
    events = [Event(int(ts[at]), "retrain", "30 models, by growth") for at in range(0, len(ts), 365)]
    events.append(
        Event(int(ts[len(ts) // 5]), "proven", "close_10: after 312 bars 6.1 % less squared error than naive")
    )
    if kind == "planted":
        events += [
            Event(int(ts[len(ts) // 2]), "flip", "what was planted turns into its opposite"),
            Event(int(ts[len(ts) // 2 + 90]), "drift", "close_5, close_10"),
            Event(
                int(ts[len(ts) // 2 + 140]),
                "promotion",
                "close_5: 31 % less squared error than the champion (t 5.1, needs 2.9)",
            ),
        ]
    return tuple(sorted(events, key=lambda event: event.ts))


def made_report(names: tuple[str, ...] = ("AAPL:1d", "AMZN:1d", "GOOG:1d", "IBM:1d", "MSFT:1d")) -> Report:
    """A whole report: series, both controls, tables and figures of a run."""
    real = tuple(made_series(name, seed=seed) for seed, name in enumerate(names, start=10))
    controls = (made_series("RANDOM:1d", "random", seed=2), made_series("PLANTED:1d", "planted", seed=3))
    return Report(
        title="Red10 report: demo-20260101-120000",
        subtitle="7 series of daily bars, 2000-03-01 to 2013-03-01, judged as they came",
        series=(*real, *controls),
        expectations=(
            Expectation("RANDOM", "no model better or worse than naive", "0 of 30 better, 0 worse", True),
            Expectation("PLANTED", "close_5 predictable before the flip", "skill +24.1 %", True),
            Expectation("PLANTED, drift", "noticed after 2006-09-01", "noticed on 2006-10-11", None),
        ),
        models=(
            Table(
                "Champions",
                ("model", "version", "trees", "trained through", "proven"),
                tuple((f"{name}/close_10", "3f9a1c02b7de", "22", "2012-12-31", "no") for name in names),
                right=("trees",),
            ),
            Table(
                "Decisions",
                ("at", "model", "verdict", "reason"),
                (("2007-02-01", "PLANTED:1d/close_5", "promote", "after 84 bars 31 % less squared error"),),
            ),
        ),
        facts=(
            Fact("whole run", "71 s"),
            Fact("lost", "0", "of 91,204 ticks"),
            Fact("counted twice", "0", "recounted from the input"),
            Fact("latency, p99", "4.1 ms", "tick to signal at 1,000 ticks/s"),
            Fact("back after SIGKILL", "1.4 s", "scorer and model Redis"),
        ),
        caveats=("Daily bars, replayed as ticks. Each bar became four ticks; nothing within a day is real.",),
    )

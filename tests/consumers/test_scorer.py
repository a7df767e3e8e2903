"""The scorer is a pure function of its input: batches, restarts and repetitions leave no trace in what it puts out."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from consumers.features import load_feature_set
from consumers.history import BarWindow
from consumers.naive import NaiveKind
from consumers.policy import Hysteresis
from consumers.spec import Spec
from consumers.targets import Target, labels
from modelstore.loaded import LoadedRelease, SeriesModels
from streams.decoded import RawEntry
from streams.keys import Keys
from streams.records import Bar, DeadLetter, Outcome, Prediction, Signal
from streams.series import Interval, partition_of
from tests.consumers.committed import Store, as_bytes, raw_entry

S = 1_000_000_000
NOW_MS = 1_700_000_000_000
NAMES = ("close_2", "volume_1")
NAIVE = ((int(NaiveKind.MEAN), np.array([0.001], np.float32)), (int(NaiveKind.NO_CHANGE), np.empty(0, np.float32)))
HOME = [f"S{n}" for n in range(40) if partition_of(f"S{n}", 4) == 1][:3]
AWAY = next(f"S{n}" for n in range(40) if partition_of(f"S{n}", 4) != 1)
KEYS = Keys("t").partition(1)
RELEASES = {letter * 64: letter for letter in "ab"}


class LastMoves:
    """A small feature set: the last two log returns and the volume ratio."""

    name, version, window, columns = "moves", 1, 3, ("r1", "r2", "v")

    def __call__(self, bars: BarWindow) -> NDArray[np.float64]:
        close = np.log(bars.values[:, 3])
        return np.array([close[2] - close[1], close[1] - close[0], bars.values[2, 4] / (1 + bars.values[1, 4])])


class FakeRelease:
    """Scores by a formula instead of by trees: the scorer must not see a difference."""

    def __init__(self, letter: str, through: int | None = None) -> None:
        self.id = letter * 64
        self._factor = np.float32(ord(letter) - 96)
        trained = np.array([0, 9 * S] if through is None else [through] * 2, np.int64)
        bounds = np.stack([np.full(3, -0.01, np.float32)] * 2)
        versions = (letter * 64, letter.upper() * 64)
        self._groups = {
            f"{symbol}:{interval}": SeriesModels(
                f"{symbol}:{interval}",
                NAMES,
                versions,
                np.arange(2, dtype=np.int32),
                trained,
                bounds,
                -bounds,
                NAIVE,
                np.array([letter == "b", False]),
            )
            for symbol in HOME[:2]
            for interval in ("1s", "5s")
        }
        self._rivals = {f"{HOME[0]}:1s"} if letter == "b" else set()

    def group(self, series: str) -> SeriesModels | None:
        return self._groups.get(series)

    def challengers(self, series: str) -> SeriesModels | None:
        return replace(self._groups[series], versions=("c" * 64, "C" * 64)) if series in self._rivals else None

    def score(self, rows: NDArray[np.float32], groups: Sequence[SeriesModels]) -> list[NDArray[np.float32]]:
        assert len(rows) == len(groups)
        # A row comes once per group: the challengers' margins are half the champions'.
        return [
            np.array([row[0] * self._factor, row[2]], np.float32) / np.float32(2 if group.versions[0][0] == "c" else 1)
            for row, group in zip(rows, groups, strict=True)
        ]


FAKES = {release: cast(LoadedRelease, FakeRelease(letter)) for release, letter in RELEASES.items()}
#: A release that has no models of these series any more.
FAKES["d" * 64] = LoadedRelease("d" * 64)
SPEC = Spec(
    partitions=4,
    intervals=(Interval(1), Interval(5)),
    lateness_ns=S // 2,
    max_ahead_ns=60 * S,
    keep_ticks_ms=1000,
    features=LastMoves(),
    policy=Hysteresis(horizon=2, cost_bps=1),
    targets={name: Target.parse(name) for name in NAMES},
    fingerprint="f" * 64,
)


def store() -> Store:
    return Store(SPEC, KEYS, FAKES)


ticks = st.builds(
    lambda symbol, ts, price, size: {"symbol": symbol, "price": price, "size": size, "ts": ts},
    st.sampled_from([*HOME, AWAY, "no symbol!"]),
    st.integers(0, 300).map(lambda tenths: tenths * S // 10),
    st.floats(90, 110),
    st.integers(0, 50),
)
controls = st.one_of(
    st.integers(0, 30).map(lambda seconds: {"kind": "clock", "ts": seconds * S}),
    st.sampled_from(["a" * 64, "b" * 64, "c" * 64, "d" * 64]).map(
        lambda release: {"kind": "release", "release": release}
    ),
)
bad = st.sampled_from(
    [
        {"symbol": HOME[0], "price": "x", "size": 1, "ts": 1},
        {"symbol": HOME[0], "price": 1, "size": 1, "ts": (NOW_MS + 10_000_000) * 1_000_000},
        {"nonsense": 1},
    ]
)
inputs = st.lists(st.one_of(ticks, ticks, ticks, ticks, ticks, controls, bad), min_size=1, max_size=60)


def entries_of(items: Sequence[Mapping[str, Any]]) -> list[RawEntry]:
    return [raw_entry(NOW_MS + number, **item) for number, item in enumerate(items)]


@settings(max_examples=150, deadline=None)
@given(inputs, st.lists(st.integers(1, 60), max_size=8), st.booleans())
def test_outputs_and_state_do_not_depend_on_batches_and_restarts(
    items: list[dict[str, Any]], cuts: list[int], restart: bool
) -> None:
    entries = entries_of(items)
    whole = store()
    whole.run(whole.scorer(), entries)
    pieces = store()
    scorer = pieces.scorer()
    bounds = sorted({0, len(entries), *(cut for cut in cuts if cut < len(entries))})
    for begin, end in itertools.pairwise(bounds):
        if restart:
            scorer = pieces.scorer()
        pieces.run(scorer, entries[begin:end])
    assert pieces.streams == whole.streams
    assert {**pieces.state, b"counter": b""} == {**whole.state, b"counter": b""}
    # `ticks` and the like may be counted as 0 in a batch without any.
    assert {k: v for k, v in pieces.counts.items() if v} == {k: v for k, v in whole.counts.items() if v}


@settings(max_examples=100, deadline=None)
@given(inputs)
def test_every_output_reads_back_through_its_record_and_ticks_are_tiled(items: list[dict[str, Any]]) -> None:
    found = store()
    found.run(found.scorer(), entries_of(items))
    records: dict[str, Any] = {KEYS.predictions: Prediction, KEYS.signals: Signal, KEYS.dead: DeadLetter}
    records[KEYS.outcomes] = Outcome
    sources: set[str] = set()
    shortest = 0
    for key, rows in found.streams.items():
        for fields in rows:
            record = records.get(key, Bar).from_fields(as_bytes(fields))
            assert list(record.to_fields()) == fields[::2]
            assert record.src not in sources, "every output has a source of its own"
            sources.add(record.src)
            if isinstance(record, Bar) and record.series.endswith(":1s"):
                shortest += record.ticks
    open_ticks = sum(
        int(bar[6])
        for name, value in found.state.items()
        if name.startswith(b"s:")
        for bar in orjson.loads(value)[1][0][2]
    )
    controls_in = sum("kind" in item for item in items)
    dead = len(found.streams.get(KEYS.dead, []))
    unknown = sum(item.get("release") == "c" * 64 for item in items)
    assert shortest + open_ticks + dead - unknown + controls_in == len(items)


def closes(symbol: str, prices: Sequence[float], start: int = 0) -> list[dict[str, Any]]:
    return [{"symbol": symbol, "price": price, "size": 1, "ts": (start + at) * S} for at, price in enumerate(prices)]


def test_what_was_trained_on_is_marked_and_makes_no_signal() -> None:
    found = store()
    items = [{"kind": "release", "release": "a" * 64}, *closes(HOME[0], [100, 101, 103, 106, 110, 115, 121])]
    found.run(found.scorer(), entries_of(items))
    predictions = [Prediction.from_fields(as_bytes(row)) for row in found.streams[KEYS.predictions]]
    assert [record.in_sample for record in predictions if record.series.endswith("1s")] == [(False, True)] * 3
    assert found.streams[KEYS.signals]


def outcomes_by_hand(found: Store) -> list[tuple[str, int, dict[str, tuple[float, float, float]]]]:
    """What must have been judged, from bars and predictions alone: (series, bar) -> target -> errors."""
    bars: dict[str, list[Bar]] = {}
    predictions: dict[tuple[str, int], Prediction] = {}
    for key, rows in found.streams.items():
        for fields in rows:
            if ":bars:" in key:
                bar = Bar.from_fields(as_bytes(fields))
                bars.setdefault(bar.series, []).append(bar)
            elif key == KEYS.predictions:
                record = Prediction.from_fields(as_bytes(fields))
                predictions[record.series, record.bar] = record
    wanted = []
    for series, all_bars in bars.items():
        window = BarWindow(
            np.array([bar.start for bar in all_bars]),
            np.array([[bar.open, bar.high, bar.low, bar.close, bar.volume] for bar in all_bars]),
        )
        for bar in all_bars:
            judged = {}
            for name, target in SPEC.targets.items():
                said = predictions.get((series, bar.bar - target.horizon))
                if said is None or said.in_sample[NAMES.index(name)]:
                    continue
                came = labels(target, window)[bar.bar - target.horizon]
                value = said.values[NAMES.index(name)]
                if value is not None and np.isfinite(came):
                    naive = float(np.float32(0.001)) if name == "close_2" else 0.0
                    judged[name] = (float(came), value - came, naive - came)
            if judged:
                wanted.append((series, bar.bar, judged))
    return sorted(wanted, key=lambda item: item[:2])


def outcomes_of(found: Store) -> list[Outcome]:
    return [Outcome.from_fields(as_bytes(row)) for row in found.streams.get(KEYS.outcomes, [])]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(ticks, ticks, ticks, controls), min_size=30, max_size=120), st.integers(1, 60))
def test_every_forecast_out_of_sample_is_judged_once_when_its_horizon_has_passed(
    items: list[dict[str, Any]], cut: int
) -> None:
    found = store()
    entries = entries_of([{"kind": "release", "release": "b" * 64}, *items])
    for piece in (entries[:cut], entries[cut:]):
        if piece:
            found.run(found.scorer(), piece)
    came = {
        (record.series, record.bar): {
            name: (record.actuals[at], record.errors[at], record.naive_errors[at])
            for at, name in enumerate(record.targets)
        }
        for record in outcomes_of(found)
        if record.targets
    }
    wanted = outcomes_by_hand(found)
    assert sorted(came) == [item[:2] for item in wanted]
    for series, bar, judged in wanted:
        assert came[series, bar].keys() == judged.keys()
        for name, errors in judged.items():
            assert came[series, bar][name] == pytest.approx(errors, rel=1e-5, abs=1e-9)


def test_challengers_are_scored_and_judged_beside_the_champions() -> None:
    found = store()
    items = [{"kind": "release", "release": "b" * 64}, *closes(HOME[0], [100, 101, 103, 102, 104, 105, 107, 106])]
    found.run(found.scorer(), entries_of(items))
    judged = [record for record in outcomes_of(found) if record.series.endswith(":1s") and "close_2" in record.targets]
    assert judged
    for record in judged:
        at = record.targets.index("close_2")
        actual, error, other = record.actuals[at], record.errors[at], record.challenger_errors[at]
        assert actual is not None and error is not None and other is not None  # noqa: PT018
        assert other + actual - 0.001 == pytest.approx((error + actual - 0.001) / 2, rel=1e-4)
        assert record.releases == ("b" * 64,)


class LateRivals(FakeRelease):
    """Champions trained through 4 s, challengers through 6 s."""

    def challengers(self, series: str) -> SeriesModels | None:
        found = super().challengers(series)
        return replace(found, trained_through=np.array([6 * S] * 2, np.int64)) if found is not None else None


def test_the_first_forecast_that_counts_is_made_at_the_close_after_the_last_bar_trained_on() -> None:
    found = store()
    found.releases = {"b" * 64: cast(LoadedRelease, LateRivals("b", through=4 * S))}
    items = [
        {"kind": "release", "release": "b" * 64},
        *closes(HOME[0], [100, 101, 103, 102, 104, 105, 107, 106, 108, 7, 9]),
    ]
    found.run(found.scorer(), entries_of(items))
    judged = [record for record in outcomes_of(found) if "close_2" in record.targets and record.series.endswith(":1s")]
    # Bar n ends at n + 1 s; what was forecast at its close is judged with bar n + 2.
    assert judged[0].bar == 4 + 2
    assert next(record.bar for record in judged if record.challenger_errors[0] is not None) == 6 + 2


def test_the_paper_account_follows_the_signals() -> None:
    found = store()
    items = [{"kind": "release", "release": "b" * 64}, *closes(HOME[0], [100, 100, 102, 103, 104, 90, 80, 80, 80])]
    found.run(found.scorer(), entries_of(items))
    signals = [Signal.from_fields(as_bytes(row)) for row in found.streams[KEYS.signals]]
    signals = [signal for signal in signals if signal.series.endswith(":1s")]
    assert [signal.position for signal in signals] == [1, -1]
    records = {record.bar: record for record in outcomes_of(found) if record.series.endswith(":1s")}
    bought, turned = (signal.bar for signal in signals)
    assert bought not in records or records[bought].position == 0
    assert records[bought + 1].position == 1
    assert records[bought + 1].profit == pytest.approx(-signals[0].cost), "filled at the next open, which is its close"
    assert records[turned + 1].position == -1
    assert sum(record.profit for record in records.values()) < sum(
        record.market * position
        for record, position in zip(
            records.values(), [0, *(record.position for record in records.values())], strict=False
        )
    )


def test_an_account_whose_models_are_gone_goes_on_with_its_position_over_any_restart() -> None:
    rising = closes(HOME[0], [100, 100, 102, 103, 104, 105])
    later = closes(HOME[0], [104, 103, 105, 107] * 10, start=6)
    release = [{"kind": "release", "release": letter * 64} for letter in "bd"]
    entries = entries_of([release[0], *rising, release[1], *later])
    whole, parts = store(), store()
    whole.run(whole.scorer(), entries)
    for entry in entries:
        parts.run(parts.scorer(), [entry])
    held = [record.position for record in outcomes_of(whole) if record.series == f"{HOME[0]}:1s"]
    assert held[-39:] == [1] * 39
    assert parts.streams == whole.streams


def test_prices_that_no_market_has_stop_nothing() -> None:
    found = store()
    prices = [100, 100, 102, 1e-320, 1e308, 1e-320, 1e308, 5, 1e-320, 1e308]
    found.run(found.scorer(), entries_of([{"kind": "release", "release": "b" * 64}, *closes(HOME[0], prices)]))
    assert {record.position for record in outcomes_of(found)} >= {1, -1}


def test_a_store_full_of_newer_models_gives_predictions_in_sample_and_nothing_else() -> None:
    found = store()
    newer = cast(LoadedRelease, FakeRelease("b", through=10**6 * S))
    found.releases = {"b" * 64: newer}
    items = [{"kind": "release", "release": "b" * 64}, *closes(HOME[0], [100, 101, 103, 106, 110, 115, 121, 128])]
    found.run(found.scorer(), entries_of(items))
    assert all(all(Prediction.from_fields(as_bytes(row)).in_sample) for row in found.streams[KEYS.predictions])
    assert found.counts["predictions"] > 3
    assert KEYS.signals not in found.streams
    assert KEYS.outcomes not in found.streams


def test_a_signal_says_what_it_was_made_of() -> None:
    found = store()
    items = [{"kind": "release", "release": "b" * 64}, *closes(HOME[0], [100, 100, 102, 102, 102])]
    found.run(found.scorer(), entries_of(items))
    [signal] = [Signal.from_fields(as_bytes(row)) for row in found.streams[KEYS.signals]]
    assert (signal.side, signal.position, signal.bar, signal.ts) == ("buy", 1, 2, 3 * S)
    assert signal.expected_return == pytest.approx(0.001 + 2 * np.log(1.02), rel=1e-6)
    assert (signal.price, signal.horizon, signal.valid_until) == (102.0, 2, 5 * S)
    assert (signal.version, signal.release, signal.model_age) == ("b" * 12, "b" * 64, 3 * S)
    assert not signal.in_range, "a move of 2 % lies outside the training range of 1 %"
    assert signal.proven


def test_dead_letters_name_the_right_key_and_keep_the_raw_fields() -> None:
    found = store()
    found.run(found.scorer(), entries_of([{"symbol": AWAY, "price": 1, "size": 1, "ts": 1, "venue": "X"}]))
    [letter] = [DeadLetter.from_fields(as_bytes(row)) for row in found.streams[KEYS.dead]]
    right = Keys("t").partition(partition_of(AWAY, 4)).ticks
    assert letter.reason == "wrong_partition"
    assert right in letter.detail
    assert letter.fields == {"symbol": AWAY, "price": "1", "size": "1", "ts": "1", "venue": "X"}


def reasons(found: Store) -> list[str]:
    return [DeadLetter.from_fields(as_bytes(row)).reason for row in found.streams.get(KEYS.dead, [])]


def test_a_clock_from_the_future_is_set_aside_like_a_tick_and_makes_nothing_late() -> None:
    """One such clock would make every symbol of the partition late for ever."""
    found = store()
    ahead = (NOW_MS + 1) * 1_000_000 + SPEC.max_ahead_ns
    items = [
        closes(HOME[0], [100])[0],
        {"kind": "clock", "ts": ahead + 1},
        {"kind": "clock", "ts": 2**63 - 1},
        closes(HOME[0], [100], 1)[0],
    ]
    found.run(found.scorer(), entries_of(items))
    assert reasons(found) == ["future", "future"]
    assert found.counts["ticks"] == 2
    assert found.state[b"clock"] == b""


@pytest.mark.parametrize("kind", ["tick", "clock"])
def test_what_lies_just_as_far_ahead_as_allowed_is_taken(kind: str) -> None:
    found = store()
    ts = NOW_MS * 1_000_000 + SPEC.max_ahead_ns
    item = {"kind": "clock", "ts": ts} if kind == "clock" else {"symbol": HOME[0], "price": 1, "size": 1, "ts": ts}
    found.run(found.scorer(), entries_of([item]))
    assert not reasons(found)


@pytest.mark.parametrize("max_ahead_ns", [0, 60 * S, 10**18, 10**30])
@pytest.mark.parametrize("ms", [0, 1, NOW_MS, 9_000_000_000_001, 2**63 // 1_000_000, 2**64 - 1])
def test_no_time_overflows_whatever_the_entry_and_the_settings_say(ms: int, max_ahead_ns: int) -> None:
    found = Store(replace(SPEC, max_ahead_ns=max_ahead_ns), KEYS, FAKES)
    tick = {"symbol": HOME[0], "price": 1, "size": 1}
    last = 9 * 10**18
    limit = min(ms * 1_000_000 + max_ahead_ns, last)
    times = [limit - limit % 1_000_000, last + 1, 2**63 - 1]
    entries = [raw_entry(ms, **tick, ts=ts) for ts in times] + [raw_entry(ms, kind="clock", ts=ts) for ts in times]
    scorer = found.scorer()
    found.run(scorer, entries)
    assert reasons(found) == ["future"] * 4
    assert found.counts["ticks"] == 1
    found.scorer()  # what was stored can be read back


def test_what_a_batch_stores_can_be_read_back_whatever_the_numbers() -> None:
    found = store()
    items = [{"symbol": HOME[0], "price": 1e308, "size": 1.7e308, "ts": at} for at in range(3)]
    found.run(found.scorer(), entries_of(items))
    again = found.scorer()
    found.run(again, [raw_entry(NOW_MS + 9, **closes(HOME[0], [1], 3)[0])])
    bars = [Bar.from_fields(as_bytes(row)) for row in found.streams[KEYS.bars(f"{HOME[0]}:1s")]]
    assert [bar.volume for bar in bars] == [float(np.finfo(np.float64).max)]


class CountsInPlace(Hysteresis):
    """A policy that is not pure."""

    def initial(self) -> dict[str, float | int | str]:
        return {"position": 0, "seen": 0}

    def decide(self, state: Any, outlook: Any) -> Any:
        state["seen"] += 1
        return state, None


def test_series_share_no_policy_state() -> None:
    found = Store(replace(SPEC, policy=CountsInPlace(horizon=2)), KEYS, FAKES)
    items = [{"kind": "release", "release": "a" * 64}, *closes(HOME[0], range(100, 130))]
    found.run(found.scorer(), entries_of(items))
    state = orjson.loads(found.state[f"s:{HOME[0]}".encode()])
    seconds, fives = (interval[1]["seen"] for interval in state[1])
    assert seconds > fives > 0


def test_the_standard_features_fit_the_scorer() -> None:
    assert load_feature_set("consumers.features:STANDARD").window > 1

"""A tenant's report says what its streams and its store say, recounted here in another way."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import redis
from typer.testing import CliRunner

from consumers import paper
from consumers.har import skill_of
from consumers.history import BarWindow
from consumers.targets import Target
from modelstore.releases import Releases
from modelstore.verdicts import Note
from ops.report_account import cost_bps_of, equity_of, positions_at
from ops.report_controls import FLIP_NS, expect_nothing, expect_planted
from ops.report_gather import NothingJudged, gather, read_signals
from ops.report_history import events_of, read_trainings
from ops.report_model import Cell, Event, Report, SeriesReport
from ops.report_outcomes import Losses, SeriesOutcomes, as_arrays, losses_of, read_outcomes
from streams.keys import Keys
from streams.records import Bar, Outcome, Record, Signal, TrainingRequest, TrainingResult
from streams.settings import Pipeline, load_settings
from streams.tenant import Tenant, open_tenant
from tests.consumers.outcomes import DAY_NS, World
from tests.ops.command import app
from tests.servers import Server

TENANT = Tenant(Keys("t"), 2, Pipeline(intervals=("1d",), columns=("close",), horizons=(1, 5)))
HORIZONS = {"close_1": 1, "close_5": 5}
BARS = 300


def add(client: redis.Redis, key: str, record: Record) -> None:
    fields: dict[Any, Any] = {**record.to_fields()}
    client.xadd(key, fields)


def signal(bar: int, position: int, before: int, *, series: str = "SPY:1d", bps: float = 5.0) -> Signal:
    return Signal(
        series=series, ts=(bar + 1) * DAY_NS, bar=bar, side="buy" if position > before else "sell",
        position=position, strength=2.0, expected_return=0.01, cost=paper.change_cost(position - before, bps),
        horizon=5, price=100.0, valid_until=(bar + 6) * DAY_NS, release="", version="", model_age=0, proven=False,
        in_range=True, src="0:1-0:0:0",
    )  # fmt: skip


def prices(count: int, seed: int = 0) -> BarWindow:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.01, count)))
    opened = close * np.exp(random.normal(0, 0.003, count))
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    return BarWindow(np.arange(count) * DAY_NS, np.stack((opened, high, low, close, np.full(count, 1e6)), axis=1))


def publish_bars(client: redis.Redis, bars: BarWindow, series: str = "SPY:1d") -> None:
    key = TENANT.keys.partition(TENANT.partition_of(series.partition(":")[0])).bars(series)
    for bar, (start, row) in enumerate(zip(bars.start.tolist(), bars.values.tolist(), strict=True)):
        opened, high, low, close, volume = row
        add(
            client,
            key,
            Bar(
                series=series, bar=bar, start=start, end=start + DAY_NS, open=opened, high=high, low=low, close=close,
                volume=volume, ticks=4, first="0:1-0:0:0", last="0:1-0:0:0", src="0:1-0:0:0", release=None,
                values=None, naive=None, challengers=None,
            ),
        )  # fmt: skip


@pytest.fixture
def world(client: redis.Redis) -> World:
    """300 days of SPY: close_1 has half of the naive errors, close_5 has a champion that is promoted midway."""
    world = World(client, TENANT, "SPY:1d", HORIZONS, client)
    good = world.version("close_1", 1, lambda bar: 0.5)
    old = world.version("close_5", 2, lambda bar: 1.0)
    world.alias("close_1", champion=good)
    world.alias("close_5", champion=old)
    world.close(BARS // 2)
    new = world.version("close_5", 3, lambda bar: 0.7)
    note = Note("SPY:1d/close_5", 150 * DAY_NS, "promoted", new, old, "after 64 bars 30 % less squared error")
    Releases(client, TENANT.keys).promote(
        {("SPY:1d/close_5", "champion"): new, ("SPY:1d/close_1", "proven"): good}, who="gate", why="", notes=[note]
    )
    world.close(BARS - BARS // 2)
    publish_bars(client, prices(BARS))
    signals = TENANT.keys.partition(world.partition).signals
    for one in (signal(20, 1, 0), signal(60, -1, 1), signal(200, 0, -1)):
        add(client, signals, one)
    return world


def outcomes_in(client: redis.Redis, world: World) -> list[Outcome]:
    found: Any = client.xrange(TENANT.keys.partition(world.partition).outcomes)
    return [Outcome.from_fields(fields) for _, fields in found]


def report_of(client: redis.Redis) -> Report:
    return gather(client, client, TENANT, policies=50)


def test_cells_are_the_skill_of_all_outcomes_with_its_interval(client: redis.Redis, world: World) -> None:
    (one,) = report_of(client).series
    rows = outcomes_in(client, world)
    for cell in one.cells:
        pairs = [
            (row.errors[at], row.naive_errors[at]) for row in rows for at, name in enumerate(row.targets)
            if name == cell.target
        ]  # fmt: skip
        loss, naive = np.array(pairs, np.float64).T ** 2
        told = skill_of(loss, naive, cell.horizon)
        assert told is not None
        assert cell.n == len(pairs) == BARS - cell.horizon
        assert (cell.skill, cell.low, cell.high, cell.p) == pytest.approx(
            (told.skill, told.low, told.high, told.test.p_greater)
        )
        assert cell.trees == 3
        assert cell.hits is not None


def test_the_account_is_that_of_the_outcomes_beside_holding_the_bars(client: redis.Redis, world: World) -> None:
    (one,) = report_of(client).series
    account, bars = one.equity, prices(BARS)
    assert account is not None
    # The first forecast judged is that of bar 0, so the account could decide at its close.
    assert len(account.ts) == BARS
    assert account.account[-1] == pytest.approx(sum(row.profit for row in outcomes_in(client, world)))
    held = math.log(bars.values[-1, 3] / bars.values[1, 0])
    assert account.hold[-1] == pytest.approx(held - paper.change_cost(1, 5.0))
    assert account.policies == 50
    assert account.percentile is not None
    assert [figures.exposure for figures in account.figures] == pytest.approx([180 / (BARS - 1), 1.0, 0.0])


def test_signals_and_what_happened_to_the_models_are_shown(client: redis.Redis, world: World) -> None:
    (one,) = report_of(client).series
    assert [(shown.side, shown.position) for shown in one.signals] == [("buy", 1), ("sell", -1), ("buy", 0)]
    assert [(event.kind, event.ts, event.targets) for event in one.events] == [
        ("promotion", 150 * DAY_NS, ("close_5",))
    ]
    assert one.forecasts is not None
    assert one.forecasts.target == "close_5", "the close that the signals look at"
    assert one.rolling[0].window == (BARS - 5) // 2


def test_tables_tell_champions_and_decisions(client: redis.Redis, world: World) -> None:
    in_force, decisions, champions = report_of(client).models
    assert in_force.rows == (("SPY:1d", "2", "3", "2", "1", "0", "1", "0", "0", "0"),)
    assert [row[1:3] for row in decisions.rows] == [("SPY:1d/close_5", "promoted")]
    assert [(row[0], row[-1]) for row in champions.rows] == [
        ("SPY:1d/close_1", "proven"),
        ("SPY:1d/close_5", "on probation"),
    ]


def test_equal_streams_make_equal_reports(client: redis.Redis, world: World) -> None:
    from ops.report_html import render

    assert render(report_of(client)) == render(report_of(client))


def test_what_is_no_outcome_is_passed_over_and_a_tenant_begun_anew_forgets(client: redis.Redis, world: World) -> None:
    key = TENANT.keys.partition(world.partition).outcomes
    before = read_outcomes(client, TENANT)["SPY:1d"]
    last = outcomes_in(client, world)[-1]
    client.xadd(key, {"series": "SPY:1d", "bar": "x"})
    add(client, key, last.model_copy(update={"bar": BARS, "errors": (0.1,)}))
    add(client, key, last.model_copy(update={"bar": BARS, "made_by": (7, 7)}))
    assert len(read_outcomes(client, TENANT)["SPY:1d"].ts) == len(before.ts)
    add(client, key, last.model_copy(update={"bar": 3}))
    assert len(read_outcomes(client, TENANT)["SPY:1d"].ts) == 1
    signals = TENANT.keys.partition(world.partition).signals
    add(client, signals, signal(2, 1, 0))
    assert len(read_signals(client, TENANT)["SPY:1d"]) == 1


def test_versions_and_releases_that_are_gone_leave_gaps_and_no_error(client: redis.Redis, world: World) -> None:
    for key in client.scan_iter("red10:{t}:version:*"):
        client.delete(key)
    (one,) = report_of(client).series
    assert all(cell.trees is None and cell.n for cell in one.cells)
    for key in client.scan_iter("red10:{t}:release*"):
        client.delete(key)
    found = report_of(client)
    assert all(cell.n for cell in found.series[0].cells)
    assert found.models[-1].rows == ()


def test_trainings_are_events_at_the_time_that_they_were_asked_for(client: redis.Redis) -> None:
    keys = TENANT.keys
    asked = TrainingRequest(
        kind="train", series="SPY:1d", targets=("close_5",), as_of=90 * DAY_NS, since=40 * DAY_NS,
        why="drift in close_5", id=None,
    )  # fmt: skip
    fields: dict[Any, Any] = {**asked.to_fields()}
    entry: Any = client.xadd(keys.requests, fields)
    done = TrainingResult(
        request=entry.decode(), id=None, series="SPY:1d", status="done", bars=50, versions=("ab" * 32,), release=None,
        trained_through=85 * DAY_NS,
    )  # fmt: skip
    add(client, keys.results, done)
    add(client, keys.results, done.model_copy(update={"request": "5-5", "trained_through": 7 * DAY_NS}))
    add(client, keys.results, done.model_copy(update={"status": "refused", "reason": "no bars", "versions": ()}))
    client.xadd(keys.results, {"nonsense": "1"})
    trainings = read_trainings(client, keys)
    first, second = events_of("SPY:1d", trainings, ())
    assert (first.ts, first.text) == (7 * DAY_NS, "1 model")
    assert (second.ts, second.targets) == (90 * DAY_NS, ("close_5",))
    assert second.text == "close_5 on the bars since 1970-02-10: drift in close_5"
    assert events_of("QQQ:1d", trainings, ()) == ()


def test_positions_decided_are_those_of_the_signals() -> None:
    ends = np.arange(1, 6) * DAY_NS
    assert positions_at(ends, [signal(1, 1, 0), signal(3, -1, 1)]).tolist() == [0, 1, 1, -1, -1]
    assert positions_at(ends, []).tolist() == [0] * 5


def test_the_cost_is_read_off_the_signals() -> None:
    assert cost_bps_of([signal(1, 1, 0, bps=7.0), signal(3, -1, 1, bps=7.0)]) == pytest.approx(7.0)
    assert cost_bps_of([]) == 0


def outcomes_of(
    errors: np.ndarray[Any, Any], came: np.ndarray[Any, Any], naive: np.ndarray[Any, Any]
) -> SeriesOutcomes:
    """Outcomes of close_1 at bars 1, 2, …"""
    count = len(came)
    return SeriesOutcomes(
        "A:1d", (Target("close", 1),), (np.arange(count) + 2) * DAY_NS, came[:, None], errors[:, None],
        naive[:, None], ("r",), np.zeros((count, 1), np.int32), np.zeros(count, np.int8), np.zeros(count),
        np.zeros(count),
    )  # fmt: skip


def test_a_naive_forecast_that_flatters_is_replaced_by_no_change() -> None:
    bars, came = prices(200), np.random.default_rng(1).normal(0, 0.01, 199)
    ends = bars.start + DAY_NS
    found = losses_of(outcomes_of(came * 0.9, came, came * 2), 0, bars, ends)
    assert found.against == "no change"
    assert found.plain == pytest.approx(1 - 0.81)
    honest = losses_of(outcomes_of(came * 0.9, came, came * 0.95), 0, bars, ends)
    assert honest.against == ""
    assert honest.plain == pytest.approx(1 - (0.9 / 0.95) ** 2)


def test_a_naive_forecast_in_float32_does_not_lose_to_itself() -> None:
    bars, came = prices(200), np.random.default_rng(1).normal(0, 0.01, 199)
    rounded = (came * (1 + 1e-8)).astype(np.float64)
    found = losses_of(outcomes_of(rounded, came, rounded), 0, bars, bars.start + DAY_NS)
    assert (found.against, found.plain) == ("", 0.0)


def test_an_account_needs_bars() -> None:
    came = np.zeros(3)
    empty = BarWindow(np.empty(0, np.int64), np.empty((0, 5)))
    assert equity_of(outcomes_of(came, came, came), [], empty, np.empty(0, np.int64), policies=5) is None


def test_targets_that_the_pipeline_does_not_have_are_left_out() -> None:
    row = Outcome(
        series="A:1d", bar=1, ts=DAY_NS, targets=("close_9", "close_1"), actuals=(0.3, 0.1), errors=(0.3, None),
        naive_errors=(0.3, 0.1), challenger_errors=(None, None), hits=(None, None), releases=("r",), made_by=(0, 0),
        position=0, profit=0.0, market=0.0, src="0:1-0:0:0",
    )  # fmt: skip
    found = as_arrays("A:1d", (Target("close", 1),), [row])
    assert found.actuals.tolist() == [[0.1]]
    assert not found.judged(0).any()


def planted(before: float, after: float, recovered: float, events: tuple[Event, ...]) -> tuple[SeriesReport, Losses]:
    """PLANTED with these skills of close_5 before the flip, after it, and from 200 days later on."""
    random = np.random.default_rng(3)
    ts = FLIP_NS + np.arange(-1500, 1500) * DAY_NS
    came = random.normal(0, 0.03, 3000)
    skill = np.where(ts < FLIP_NS, before, np.where(ts < FLIP_NS + 200 * DAY_NS, after, recovered))
    naive = came**2
    made_by = np.where(ts < FLIP_NS + 200 * DAY_NS, 0, 1).astype(np.int32)
    losses = Losses(ts, naive * (1 - skill) * np.exp(random.normal(0, 0.01, 3000)), naive, "", came, came, made_by)
    return SeriesReport("PLANTED:1d", "planted", ts, np.ones(3000), events=events), losses


STORY = (
    Event(FLIP_NS + 90 * DAY_NS, "drift", "", ("high_5", "close_5")),
    Event(FLIP_NS + 100 * DAY_NS, "retrain", "", ("close_5",)),
    Event(FLIP_NS + 190 * DAY_NS, "promotion", "", ("close_5",)),
)


def test_the_planted_sequence_holds_step_by_step() -> None:
    one, losses = planted(0.1, -0.4, 0.1, STORY)
    expected = expect_planted(one, {"close_5": losses})
    assert [found.holds for found in expected] == [True] * 6
    assert "90 days after the flip" in expected[2].found
    assert "2006-11-30" in expected[2].found


@pytest.mark.parametrize(
    ("skills", "events", "fails"),
    [
        ((-0.1, -0.4, 0.1), STORY, [0]),
        ((0.95, -0.4, 0.1), STORY, [0]),
        ((0.1, 0.1, 0.1), STORY, [1]),
        ((0.1, -0.4, -0.1), STORY, [5]),
        ((0.1, -0.4, -0.4), STORY[1:2], [2, 4]),
        ((0.1, -0.4, -0.4), STORY[:1], [3, 4]),
    ],
)
def test_a_step_that_does_not_come_or_comes_out_otherwise_fails(
    skills: tuple[float, float, float], events: tuple[Event, ...], fails: list[int]
) -> None:
    one, losses = planted(*skills, events)
    expected = expect_planted(one, {"close_5": losses})
    assert [at for at, found in enumerate(expected) if found.holds is False] == fails


def test_nothing_is_expected_of_a_planted_series_that_never_saw_the_flip() -> None:
    one, losses = planted(0.1, -0.4, 0.1, STORY)
    assert expect_planted(one, {"close_5": losses.between(0, FLIP_NS)}) == []


def test_noise_in_which_something_is_found_fails() -> None:
    cells = (Cell("close_5", 900, 0.2, 0.1, 0.3, 1e-9), Cell("close_10", 900, -0.01, -0.05, 0.03, 0.7))
    one = SeriesReport("RANDOM:1d", "random", np.empty(0, np.int64), np.empty(0), cells)
    assert expect_nothing(one).holds is False
    assert expect_nothing(replace(one, cells=cells[1:])).holds is True
    assert expect_nothing(replace(one, cells=())).holds is None


def test_a_tenant_without_outcomes_is_told_what_to_do(client: redis.Redis) -> None:
    open_tenant(client, load_settings(partitions=2, tenant="other")[0])
    with pytest.raises(NothingJudged, match=r"red10 train SERIES.*Other tenants: other"):
        gather(client, client, TENANT)


def red10(server: Server, *args: str) -> Any:
    where = ("--streams-url", server.url, "--models-url", server.url, "--tenant", "t")
    return CliRunner().invoke(app, ["report", "--no-open", *args, *where])


@pytest.fixture
def stored(client: redis.Redis) -> None:
    open_tenant(client, load_settings(partitions=2, tenant="t", intervals="1d", columns="close", horizons="1,5")[0])


def test_the_command_writes_the_page_and_says_where(
    server: Server, world: World, stored: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = red10(server)
    assert done.exit_code == 0, done.output
    assert "report: red10-data/red10-report.html" in done.stdout
    assert (tmp_path / "red10-data" / "red10-report.html").read_text().startswith("<!doctype html>")
    found = orjson.loads(red10(server, "--json", "--out", "page.html").stdout)
    assert found["report"] == "page.html"
    verdicts = {cell["target"]: cell["verdict"] for cell in found["series"][0]["targets"]}
    assert verdicts == {"close_1": "predictable", "close_5": "predictable"}


def test_the_command_says_what_to_do_without_outcomes(
    server: Server, stored: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = red10(server)
    assert done.exit_code == 2
    assert "red10 train SERIES" in done.stderr
    assert not (tmp_path / "red10-data" / "red10-report.html").exists()

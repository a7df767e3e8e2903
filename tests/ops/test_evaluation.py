"""A file of bars is judged by the book, in processes, without a Redis; tables, JSON and report say the same."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from consumers.evaluate import Evaluation, evaluate
from consumers.policy import Hysteresis
from consumers.walkforward import Walk
from ops.commands import evaluate as command
from ops.commands.session import remember, with_common
from ops.evaluation import evaluate_all, series_of
from ops.report_evaluation import expect_nothing, expect_planted, report_of, series_report
from ops.report_model import colour_map
from producers.bars import Bars
from producers.controls import FIRST, LAST, planted, random_walk, weekdays
from producers.tables import read_table
from streams.settings import Settings, load_settings

DAYS = 620


def settings() -> Settings:
    """One horizon, two columns, few bars: a fit takes a moment."""
    found, _ = load_settings(
        columns=("close", "volume"), horizons=(1, 5), policy_options={"horizon": 1, "cost_bps": 2.0}, processes=2,
        min_rows=250, min_child_weight=20,
    )  # fmt: skip
    return found


@functools.cache
def table() -> Bars:
    """Two series in one table, row by row in turn."""
    parts = [maker(days=weekdays(FIRST, LAST)[:DAYS]) for maker in (planted, random_walk)]
    columns = [np.stack([getattr(part, name) for part in parts], axis=1).ravel() for name in COLUMNS]
    codes = np.tile(np.arange(2, dtype=np.int32), DAYS)
    return Bars(parts[0].interval, ("PLANTED", "RANDOM"), codes, *columns)


COLUMNS = ("start", "open", "high", "low", "close", "volume")


@functools.cache
def evaluations() -> tuple[Evaluation, ...]:
    return tuple(evaluate_all(series_of(table()), settings(), step=150, count=50))


def test_series_are_taken_out_of_a_table_in_order_of_time() -> None:
    one, two = series_of(table())
    assert (one.name, two.name) == ("PLANTED:1d", "RANDOM:1d")
    alone = planted(days=weekdays(FIRST, LAST)[:DAYS])
    assert one.bars.start.tobytes() == alone.start.tobytes()
    assert one.bars.values[:, 3].tobytes() == alone.close.tobytes()
    assert (one.ends - one.bars.start == alone.interval.ns).all()


def test_processes_make_the_same_of_it_and_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    series = series_of(table())
    [found] = evaluate_all(series[:1], settings(), step=150, count=50, on_progress=lambda *what: told.append(what))
    alone = evaluate(
        series[0].name, series[0].bars, series[0].ends, Walk.of(settings(), settings().pipeline, 150),
        Hysteresis(horizon=1, cost_bps=2.0), cost_bps=2.0, count=50,
    )  # fmt: skip
    assert found.walked.values.tobytes() == alone.walked.values.tobytes()
    assert found.paper is not None
    assert alone.paper is not None
    assert found.paper.own == alone.paper.own
    cuts = len(alone.walked.cuts)
    assert cuts == 3
    assert told == [("PLANTED:1d", done + 1, cuts) for done in range(cuts)]


def test_a_report_carries_what_was_found() -> None:
    for evaluation in evaluations():
        one = series_report(evaluation)
        walked, account = evaluation.walked, evaluation.paper
        assert account is not None
        for cell, result in zip(one.cells, evaluation.results, strict=True):
            assert (cell.target, cell.n, cell.skill) == (str(result.target), result.n, result.skill)
            assert (cell.low is None) == (result.stricter is None)
        assert one.equity is not None
        assert one.equity.account[-1] == pytest.approx(account.own.total)
        position = 0
        for signal in one.signals:
            bar = int(np.flatnonzero(walked.ends == signal.ts)[0])
            assert signal.price == walked.bars.values[bar, 3]
            assert account.positions[bar - account.first] == signal.position
            assert (signal.side == "buy") is (signal.position > position)
            position = signal.position
        assert [event.ts for event in one.events] == [walked.ends[cut.at - 1] for cut in walked.cuts]
        assert one.forecasts is not None
        assert np.isfinite(one.forecasts.actual).all()
        assert (np.diff(one.rolling[0].ts) > 0).all()


def test_controls_are_told_apart_and_expectations_follow_what_was_found() -> None:
    strong, nothing = evaluations()
    report = report_of(evaluations(), "a walk")
    assert [one.kind for one in report.series] == ["planted", "random"]
    assert expect_nothing(nothing).holds is True
    assert colour_map([series_report(strong)]).colours["PLANTED:1d", "close_1"] == "predictable"
    assert expect_nothing(strong).holds is False, "what is planted is found, so it is no noise"
    [before, after] = expect_planted(strong)
    assert before.holds is not None
    assert after.holds is None, "this walk ends before the flip"


def run(*arguments: object) -> Result:
    app = typer.Typer()

    def root(ctx: typer.Context, **given: object) -> None:
        remember(ctx, given)

    app.callback()(with_common(root))
    command.register(app)
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table as a file, and settings in the environment."""
    for name, value in {
        "COLUMNS": "close,volume", "HORIZONS": "1,5", "POLICY_OPTIONS": '{"horizon": 1}', "PROCESSES": "1",
        "DATA_DIR": str(tmp_path / "data"),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"RED10_{name}", value)
    bars, path = table(), tmp_path / "bars.csv"
    rows = ["date,symbol,open,high,low,close,volume"]
    for at in range(len(bars)):
        day = np.datetime64(int(bars.start[at]), "ns").astype("datetime64[D]")
        prices = ",".join(repr(float(getattr(bars, name)[at])) for name in COLUMNS[1:])
        # Not the controls' names: they could be asked for as well.
        rows.append(f"{day},{('AAA', 'BBB')[bars.codes[at]]},{prices}")
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_command_judges_a_file_and_writes_a_report(file: Path, tmp_path: Path) -> None:
    shown = run(file, "--step", 200)
    assert shown.exit_code == 0, shown.output
    assert "AAA:1d: 620 bars, 2 trainings" in shown.output
    assert "close_1" in shown.output
    assert "buying and holding" in shown.output
    page = (tmp_path / "data" / "red10-evaluation.html").read_text()
    assert "AAA:1d" in page


def test_json_has_the_same_figures_and_out_names_the_report(file: Path, tmp_path: Path) -> None:
    found = json.loads(run(file, "--step", 200, "--json", "--out", tmp_path / "x" / "page.html").stdout)
    assert [one["series"] for one in found["series"]] == ["AAA:1d", "BBB:1d"]
    assert found["report"] == str(tmp_path / "x" / "page.html")
    assert (tmp_path / "x" / "page.html").exists()
    again = read_table(file)
    assert isinstance(again, Bars)
    given, _ = load_settings()
    [one, _] = evaluate_all(series_of(again), given, step=200)
    assert [cell["skill"] for cell in found["series"][0]["targets"]] == [result.skill for result in one.results]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("ts,symbol,price\n1,AAA,2\n", "holds ticks; evaluate takes bars"),
        ("date,symbol,open\n", "lacks"),
    ],
)
def test_what_holds_no_bars_is_refused_with_the_reason(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(content)
    shown = run(path)
    assert shown.exit_code == 2
    assert reason in shown.stderr


def test_too_short_a_history_is_said_to_be(file: Path) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:201]) + "\n")
    shown = run(file)
    assert shown.exit_code == 0, shown.output
    assert "too few bars" in shown.output


def test_a_series_that_two_files_hold_is_refused(file: Path) -> None:
    shown = run(file, file)
    assert shown.exit_code == 2
    assert "AAA:1d occurs in more than one table" in shown.stderr

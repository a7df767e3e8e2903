"""The demo: it ends well, nothing is lost, and two runs have the same digest."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from ops.demo_outcome import outputs_digest
from ops.demo_trials import latency
from ops.demo_view import LiveDisplay
from streams.ids import StreamID
from streams.records import Outcome, Signal

#: One model per series, of few trees: what is tested is the run, not the models.
SMALL = {"RED10_HORIZONS": "10", "RED10_COLUMNS": "close", "RED10_ROUNDS": "10", "RED10_PROCESSES": "1"}


def red10(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "red10", *arguments],
        cwd=directory,
        env={**os.environ, **SMALL, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.mark.timeout(400)
def test_two_runs_end_with_the_same_digest_and_their_next_commands_work(tmp_path: Path) -> None:
    digests = []
    for _ in range(2):
        run = red10(tmp_path, "demo")
        assert run.returncode == 0, run.stdout + run.stderr
        text = re.sub(r"\s+", " ", run.stdout)
        assert "75,760 ticks, 0 set aside, 0 lost, 0 counted twice" in text
        assert "FB:1d has no models" in text
        assert re.search(r"were killed \(SIGKILL\) on the way: back in [\d.]+ s with all 6 models", text)
        assert re.search(r"p50 [\d.]+ ms, p99 [\d.]+ ms", text)
        digests += re.findall(r"digest of all signals and outcomes ([0-9a-f]{64})", text)
    assert len(digests) == 2
    assert digests[0] == digests[1]
    [page] = re.findall(r"^  (\S+\.html)$", run.stdout, re.MULTILINE)
    assert "PLANTED:1d/close_10" in (tmp_path / page).read_text()
    commands = re.findall(r"^  \S+ -m red10 (.*)$", run.stdout, re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        again = red10(tmp_path, *command.split())
        assert again.returncode == 0, command + again.stderr
        assert again.stdout.strip(), command


def test_progress_keeps_its_figures_in_80_columns_however_long_the_phase() -> None:
    out = io.StringIO()
    with LiveDisplay(Console(file=out, force_terminal=True, width=80, color_system=None)) as display:
        display.phase("training on the bars before 2006-01-01: AAPL:1d, GOOG:1d, IBM:1d, MSFT:1d")
        display.advance(11568, 48616)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip("\r") for line in out.getvalue().splitlines()]
    last = [line for line in lines if "training" in line][-1]
    assert len(last) <= 80
    assert re.search(r"^\S ━\S* +11568/48616 0:00:0\d training on the bars before 2006-01-01", last), last


def signal(series: str, ts: int, **changes: str) -> Signal:
    fields = {
        "series": series, "ts": str(ts), "bar": "1", "side": "buy", "position": "1", "strength": "2.0",
        "expected_return": "0.1", "cost": "0.01", "horizon": "5", "price": "9.0", "valid_until": "9", "release": "r",
        "version": "v", "model_age": "1", "proven": "0", "in_range": "1", "src": "0:1-0:0:0", **changes,
    }  # fmt: skip
    return Signal.from_fields(fields)


def outcome(series: str, ts: int, **changes: str) -> Outcome:
    lists = dict.fromkeys(
        ("targets", "actuals", "errors", "naive_errors", "challenger_errors", "hits", "releases", "made_by"), "[]"
    )
    rest = {"bar": "1", "position": "0", "profit": "0.0", "market": "0.0", "src": "0:1-0:0:1"}
    return Outcome.from_fields({"series": series, "ts": str(ts), **lists, **rest, **changes})


def test_the_digest_depends_on_what_is_said_and_not_on_where_it_stands() -> None:
    one, two, told = signal("A:1d", 1), signal("B:1d", 1), outcome("A:1d", 1)
    digest = outputs_digest([one, two, told])
    assert outputs_digest([told, two, one]) == digest
    assert outputs_digest([signal("A:1d", 1, src="0:7-7:0:2"), two, told]) == digest
    assert outputs_digest([signal("A:1d", 1, price="9.5"), two, told]) != digest
    assert outputs_digest([one, two, outcome("A:1d", 1, profit="0.1")]) != digest
    assert outputs_digest([one, two]) != digest


def test_latency_counts_what_was_due_and_arrived() -> None:
    due = {StreamID(n, 0): float(n) for n in range(101)}
    received = {StreamID(n, 0): n + n / 1000 for n in range(0, 101, 2)} | {StreamID(500, 0): 0.0}
    found = latency(due, received, 10.0)
    assert found is not None
    assert (found.outputs, found.rate) == (51, 10.1)
    assert found.p50_ms == pytest.approx(50)
    assert found.p99_ms == pytest.approx(99)
    assert latency(due, {}, 10.0) is None

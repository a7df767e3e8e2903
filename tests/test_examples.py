"""The examples run as they are against a Redis, and importing the façade stays light."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from streams.keys import Keys
from streams.records import Signal
from streams.series import partition_of
from streams.settings import load_settings
from streams.tenant import open_tenant
from tests.servers import Server
from tests.streams.test_subscribe import signal
from tests.workers import workers

ROOT = Path(__file__).parent.parent
KEYS = Keys("default")


def environment(server: Server | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RED10_")}
    if server is not None:
        kept["RED10_STREAMS_URL"] = kept["RED10_MODELS_URL"] = server.url
    return kept | {"PYTHONPATH": str(ROOT)}


def run(name: str, server: Server | None, cwd: Path, *arguments: str) -> list[str]:
    script = str(ROOT / "examples" / name)
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env=environment(server),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def put(client: redis.Redis, *signals: Signal) -> None:
    for found in signals:
        partition = partition_of(found.series.partition(":")[0], 8)
        client.xadd(KEYS.partition(partition).signals, cast(Any, found.to_fields()))


def test_publishing_takes_a_few_lines(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    printed = run("publish_ticks.py", server, tmp_path)
    entries = cast(Any, client.xrange(KEYS.partition(partition_of("DEMO", 8)).ticks))
    assert printed == [f"DEMO {entry.decode()}" for entry, _ in entries]
    assert len(entries) == 10


def test_following_prints_what_was_and_what_comes(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    open_tenant(client, load_settings()[0])
    put(client, signal(1))
    command = [sys.executable, str(ROOT / "examples" / "follow_signals.py")]
    with subprocess.Popen(command, env=environment(server), cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"{signal(1).ts} SPY:1m buy 1 at 101.0\n"
            put(client, signal(2))
            assert process.stdout.readline() == f"{signal(2).ts} SPY:1m buy 1 at 102.0\n"
        finally:
            process.kill()


def test_resuming_prints_each_signal_once(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    open_tenant(client, load_settings()[0])
    put(client, signal(1), signal(2, "QQQ:1m"))
    assert len(run("resume.py", server, tmp_path)) == 2
    assert run("resume.py", server, tmp_path) == []
    put(client, signal(3))
    assert run("resume.py", server, tmp_path) == [f"{signal(3).ts} SPY:1m buy 1"]


def test_rows_of_a_table_are_predicted_by_the_store_and_by_a_trainer(
    server: Server, client: redis.Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "producers" / "data" / "iris.csv", tmp_path)
    env = {"RED10_STREAMS_URL": server.url, "RED10_MODELS_URL": server.url, "RED10_DATA_DIR": str(tmp_path / "data")}
    with workers(env, tmp_path) as crew:
        trainer = crew.start("trainer")
        train = [sys.executable, "-m", "red10", "train", "iris.csv", "--targets", "all"]
        done = subprocess.run(
            train, env=environment(server) | env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr + crew.logs()
        assert "iris/species" in done.stdout
        first, second = run("predict_rows.py", server, tmp_path)
        assert first.startswith("setosa setosa 9")
        assert second.startswith("virginica setosa ")
        assert run("ask_by_stream.py", server, tmp_path) == ['["setosa"]']
        assert trainer.stop() == 0


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "examples").glob("[!_]*.py")))
def test_an_example_has_less_than_ten_lines_of_code(name: str) -> None:
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    body = text.split('"""')[2]
    lines = [line for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]
    limit = 15 if name in ("resume.py", "ask_by_stream.py", "promote_models.py") else 10
    assert len(lines) < limit


def test_importing_red10_is_light(tmp_path: Path) -> None:
    """A client that publishes must not pay for what workers need."""
    heavy = ("numba", "faust", "xgboost", "pandas", "pyarrow", "typer", "rich", "boto3", "psutil", "consumers", "ops")
    program = f"import red10, sys; print([m for m in {heavy!r} if m in sys.modules], *red10.__all__)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(None), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        "[]", "AsyncSubscriber", "AsyncTickPublisher", "ModelStore", "Query", "Red10Error", "Subscriber",
        "TickPublisher", "load_export",
    ]  # fmt: skip


def test_python_dash_m_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "red10", "--help"],
        env=environment(None),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "signals" in done.stdout

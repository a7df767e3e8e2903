"""The `red10` command as people and scripts use it: results on standard output, messages that help, exit codes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import pytest
import redis
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from modelstore.manifest import Manifest, Serving
from modelstore.verdicts import Note, Verdicts
from ops.cli import PARTS, make_app, part_of
from ops.commands.follow import percent
from ops.commands.times import BadTime, parse_time, show_age, show_ns
from ops.embedded_files import RoleDirectory, read_json
from ops.outputs import read_tail
from streams.clients import connect
from streams.keys import TRAINERS, Keys
from streams.records import Prediction, Record, Signal, TrainingResult
from streams.settings import Settings, load_settings
from streams.tenant import Tenant, open_tenant
from tests.ops.command import app
from tests.ops.conftest import Red10
from tests.servers import Server, prices

ROOT = Path(__file__).resolve().parents[2]
NS = 1_000_000_000
DAY = 86_400 * NS
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def tenant(client: redis.Redis) -> Tenant:
    return open_tenant(client, load_settings(partitions=2, intervals="1d")[0])


def signal_of(number: int, symbol: str = "SPY", **changes: object) -> Signal:
    fields = {
        "series": f"{symbol}:1d",
        "ts": number * DAY,
        "bar": number,
        "side": "buy",
        "position": 1,
        "strength": 2.5,
        "expected_return": 0.01,
        "cost": 0.0004,
        "horizon": 5,
        "price": 512.25,
        "valid_until": (number + 5) * DAY,
        "release": "ab" * 32,
        "version": "cd" * 6,
        "model_age": DAY,
        "proven": False,
        "in_range": True,
        "src": f"0:{number}-0:0:0",
    }
    return Signal.model_validate(fields | changes)


def add(client: redis.Redis, key: str, record: Record, entry: str = "*") -> None:
    fields: dict[Any, Any] = {**record.to_fields()}
    client.xadd(key, fields, id=entry)


def entries(client: redis.Redis, key: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    return cast(list[tuple[bytes, dict[bytes, bytes]]], client.xrange(key))


def execute(client: redis.Redis, *words: str) -> Any:
    send: Any = client.execute_command
    return send(*words)


def add_signals(client: redis.Redis, tenant: Tenant, numbers: range, symbol: str = "SPY") -> None:
    key = tenant.keys.partition(tenant.partition_of(symbol)).signals
    for number in numbers:
        add(client, key, signal_of(number, symbol), f"{number * DAY // 1_000_000}-0")


def test_help_is_fast_and_fits_80_columns() -> None:
    code = "import sys; from ops.cli import make_app; import typer.testing as t\n"
    code += "print(t.CliRunner().invoke(make_app(), ['--help']).output)\n"
    code += (
        "heavy = {'numba', 'faust', 'pandas', 'xgboost', 'numpy', 'redis', 'pydantic_settings'} & set(sys.modules)\n"
    )
    code += "sys.exit(f'imported {heavy}' if heavy else 0)"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    for name in (
        "demo",
        "up",
        "worker",
        "publish",
        "replay",
        "signals",
        "predictions",
        "train",
        "predict",
        "model",
        "release",
    ):
        assert re.search(rf"│ {name} ", done.stdout), name
    for name in ("status", "keys", "config", "tenant", "dead"):
        assert re.search(rf"│ {name} ", done.stdout), name


def test_a_part_of_the_command_is_what_the_whole_has() -> None:
    verbs = [verb for part in PARTS.values() for verb in part]
    whole = typer.main.get_command(app)
    assert isinstance(whole, TyperGroup)
    assert sorted(verbs) == sorted(whole.commands)
    runner = CliRunner()
    for verb in verbs:
        part = make_app(*part_of([verb, "--json"]))
        assert runner.invoke(part, [verb, "--help"]).output == runner.invoke(app, [verb, "--help"]).output
    for arguments in ([], ["--help"], ["--tenant", "up", "status"], ["no-such-verb"]):
        assert part_of(arguments) == ()


def test_every_command_has_help_in_80_columns() -> None:
    runner = CliRunner()
    alone = ["demo", "up", "worker", "publish", "replay", "signals", "predictions", "train", "status", "keys", "config"]
    alone += ["predict", "dead list", "dead show", "dead retry", "dead drop"]
    for words in [*alone, "model list", "model show", "release list", "release show", "tenant list"]:
        done = runner.invoke(app, [*words.split(), "--help"])
        assert done.exit_code == 0, words
        assert "--tenant" in done.output
        assert max(map(len, done.output.splitlines())) <= 80, words


def test_help_breaks_lines_where_the_terminal_ends_only() -> None:
    shown = CliRunner().invoke(app, ["replay", "--help"]).output
    assert "wrong. A bar (open, high, low, close, volume) becomes four ticks." in shown


def test_version_is_printed() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert re.fullmatch(r"red10 \d+\.\d+\.\d+\S*\n", done.output)


def test_common_options_work_before_and_after_the_command_and_the_later_wins(red10: Red10) -> None:
    assert orjson.loads(red10("--tenant", "a", "config", "--json").output)[0]["value"] == "a"
    assert orjson.loads(red10("--tenant", "a", "config", "--tenant", "b", "--json").output)[0]["value"] == "b"


def test_mistakes_of_users_get_a_message_and_exit_code_2_without_a_traceback(red10: Red10) -> None:
    for args, message in (
        (("publish", "S P", "1"), "cannot be a symbol"),
        (("publish", "SPY", "0"), "price"),
        (("publish", "SPY", "-1.5"), "red10: price is -1.5; it must be a finite number above zero"),
        (("publish", "SPY"), "SYMBOL and PRICE"),
        (("publish", "--clock", "yesterday"), "is no time"),
        (("replay", "missing.csv"), "no such file"),
        (("replay", "missing.csv", "--speed", "fast"), "--speed takes a number"),
        (("replay", __file__, os.path.relpath(__file__)), "is named twice"),
        (("replay", __file__, "--name", "day", "--start", "1714521601"), "Leave --start out, or take another name"),
        (("keys", "a:b"), "cannot be a symbol"),
        (("train", "SPY"), "SYMBOL:INTERVAL"),
        (("signals",), "there is no tenant 'default' yet"),
        (("--tenant", "{", "status"), "cannot be a tenant"),
    ):
        done = red10(*args)
        assert done.exit_code == 2, (args, done.output)
        assert message in done.stderr, (args, done.stderr)
        assert isinstance(done.exception, SystemExit), args
        assert "Traceback" not in done.output


def test_debug_shows_the_traceback(red10: Red10) -> None:
    done = red10("keys", "a:b", "--debug")
    assert type(done.exception).__name__ == "BadName"


def test_redis_that_is_away_is_said_without_the_password() -> None:
    url = "redis://user:secret@127.0.0.1:1"
    done = CliRunner().invoke(app, ["tenant", "list", "--streams-url", url])
    assert done.exit_code == 2
    assert "redis://127.0.0.1:1 is not available" in done.stderr
    assert "secret" not in done.output


def test_config_shows_every_setting_its_origin_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "red10.toml").write_text("seed = 7\n")
    monkeypatch.setenv("RED10_ROUNDS", "11")
    args = ["config", "--streams-url", "redis://user:secret@host:1/2"]
    done = CliRunner().invoke(app, [*args, "--json"])
    rows = {row["name"]: row for row in orjson.loads(done.stdout)}
    assert set(rows) == set(Settings.model_fields)
    assert (rows["seed"]["value"], rows["seed"]["origin"]) == (7, "red10.toml")
    assert (rows["rounds"]["value"], rows["rounds"]["origin"]) == (11, "RED10_ROUNDS")
    assert (rows["streams_url"]["value"], rows["streams_url"]["origin"]) == ("redis://host:1/2", "flag")
    assert rows["models_url"]["value"] is None
    table = CliRunner().invoke(app, args).output
    assert max(map(len, table.splitlines())) <= 80
    assert "secret" not in done.output + table


def test_published_tick_is_in_the_partition_that_keys_shows(red10: Red10, client: redis.Redis) -> None:
    published = orjson.loads(red10("publish", "SPY", "512.5", "--size", "3", "--ts", "2024-05-01", "--json").stdout)
    shown = orjson.loads(red10("keys", "SPY", "--json").stdout)
    assert published["partition"] == shown["partition"]
    [(entry, fields)] = entries(client, shown["keys"]["ticks"])
    assert entry.decode() == published["id"]
    assert fields == {b"symbol": b"SPY", b"price": b"512.5", b"size": b"3.0", b"ts": b"1714521600000000000"}


def test_lines_that_keys_prints_work_as_printed(red10: Red10, server: Server, client: redis.Redis) -> None:
    done = red10("keys", "BRK$B")
    assert done.exit_code == 0, done.output
    lines = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("redis-cli")]
    assert len(lines) == 3
    for line in lines:
        assert line[:3] == ["redis-cli", "-s", f"{server.directory}/redis.sock"]
    execute(client, *lines[0][3:])
    keys = orjson.loads(red10("keys", "BRK$B", "--json").stdout)["keys"]
    assert client.xlen(keys["ticks"]) == 1
    assert execute(client, *lines[2][3:]) == []


def test_clock_goes_to_every_partition(red10: Red10, client: redis.Redis, tenant: Tenant) -> None:
    assert red10("publish", "--clock", "2024-05-01").exit_code == 0
    for partition in range(tenant.partitions):
        [(_, fields)] = entries(client, tenant.keys.partition(partition).ticks)
        assert fields == {b"kind": b"clock", b"ts": b"1714521600000000000"}


def test_clock_before_its_time_is_refused(red10: Red10, client: redis.Redis, tenant: Tenant) -> None:
    done = red10("publish", "--clock", "2100-01-01")
    assert done.exit_code == 2
    assert "ahead of now" in done.stderr
    assert not client.keys("*:ticks")


def test_replay_publishes_files_whole_or_not_at_all(red10: Red10, client: redis.Redis, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("symbol,price,size,ts\nSPY,1,1,1714521600\nSPY,2,1,1714521601\nQQQ,3,1,1714521602\n")
    bad.write_text("symbol,price,size,ts\nSPY,1,1,1714521600\nSPY,-2,1,1714521601\n")
    refused = red10("replay", good, bad)
    assert refused.exit_code == 2
    assert "row 2" in refused.stderr
    assert not client.keys("*ticks")
    done = red10("replay", good, "--json")
    assert orjson.loads(done.stdout)["ticks"] == 3
    some = red10("replay", good, "--until", "1714521601")
    assert "1 ticks of 2 symbols" in some.stdout
    none = red10("replay", good, "--start", "2030-01-01")
    assert "no row lies between" in none.stdout


def test_replay_ends_with_a_clock_command_that_closes_its_bars(red10: Red10, tmp_path: Path, tenant: Tenant) -> None:
    (tmp_path / "f.csv").write_text("symbol,price,size,ts\nSPY,1,1,1714521600\nSPY,2,1,1714521601\n")
    done = red10("replay", "f.csv")
    hint = " ".join(done.stderr.split())
    found = re.search(r"`red10 (publish --clock (\d+))`", hint)
    assert found, hint
    assert int(found[2]) == (1714521600 + 86400) * NS
    assert red10(*found[1].split()).exit_code == 0


def test_replay_of_today_warns_of_a_clock_before_its_time(red10: Red10, tmp_path: Path, tenant: Tenant) -> None:
    now = time.time_ns()
    (tmp_path / "f.csv").write_text(f"symbol,price,size,ts\nSPY,1,1,{now}\n")
    hint = " ".join(red10("replay", "f.csv").stderr.split())
    end = (now // DAY + 1) * DAY
    assert f"a clock said after {show_ns(end)} UTC close them: `red10 publish --clock {end}`" in hint


@pytest.mark.parametrize("name", [(), ("--name", "day")], ids=["no name", "name"])
def test_replay_that_is_broken_off_goes_on_with_what_it_says(
    red10: Red10, server: Server, client: redis.Redis, tmp_path: Path, tenant: Tenant, env: dict[str, str],
    name: tuple[str, ...],
) -> None:  # fmt: skip
    # Two ticks at each time, 20 ms apart: broken off between them, one would be lost or doubled.
    rows = [f"SPY,{n + 1},1,{1_714_521_600 * NS + n // 2 * 20_000_000}" for n in range(400)]
    (tmp_path / "f.csv").write_text("\n".join(["symbol,price,size,ts", *rows]))
    key = tenant.keys.partition(tenant.partition_of("SPY")).ticks
    with running(env, command_line(server, "replay", "f.csv", "--speed", "1", *name)) as replay:
        assert replay.stderr is not None
        with connect(server.url, block_ms=20_000) as waiting:
            assert waiting.xread({key: "0"}, count=1, block=20_000)
        replay.send_signal(signal.SIGINT)
        assert replay.wait(20) == 130
        said = " ".join(replay.stderr.read().split())
    assert 0 < len(prices(client, key)) < 400
    if name:
        assert said.endswith("To go on, repeat the same command"), said
        assert red10("replay", "f.csv", *name).exit_code == 0
    else:
        found = re.search(r"Broken off after (\d+) of 400 ticks, .* repeat the command with --start (\d+)$", said)
        assert found, said
        assert len(prices(client, key)) == int(found[1])
        assert red10("replay", "f.csv", "--start", found[2]).exit_code == 0
    assert prices(client, key) == list(range(1, 401))


def test_replay_under_a_name_sends_nothing_twice(
    red10: Red10, client: redis.Redis, tmp_path: Path, tenant: Tenant
) -> None:
    rows = [f"SPY,{n + 1},1,{1_714_521_600 * NS + n}" for n in range(50)]
    (tmp_path / "f.csv").write_text("\n".join(["symbol,price,size,ts", *rows]))
    first = orjson.loads(red10("replay", "f.csv", "--name", "f", "--json").stdout)
    again = red10("replay", "f.csv", "--name", "f", "--speed", "1")
    assert (first["ticks"], first["passed_over"], first["lost"]) == (50, 0, 0)
    assert "50 of them were in the log already, under the name f" in " ".join(again.stderr.split())
    assert prices(client, tenant.keys.partition(tenant.partition_of("SPY")).ticks) == list(range(1, 51))


def test_newest_signals_of_all_partitions_are_shown_oldest_first(
    red10: Red10, client: redis.Redis, tenant: Tenant
) -> None:
    add_signals(client, tenant, range(1, 40), "SPY")
    add_signals(client, tenant, range(40, 60), "AAPL")
    assert tenant.partition_of("SPY") != tenant.partition_of("AAPL")
    shown = red10("signals").stdout.splitlines()
    assert len(shown) == 21
    assert max(map(len, shown)) <= 80
    found = orjson.loads(red10("signals", "-n", "25", "--json").stdout)
    assert [row["bar"] for row in found] == list(range(35, 60))
    found = orjson.loads(red10("signals", "-n", "3", "--symbol", "SPY", "--json").stdout)
    assert [row["bar"] for row in found] == [37, 38, 39]


def test_signals_since_an_event_time(red10: Red10, client: redis.Redis, tenant: Tenant) -> None:
    add_signals(client, tenant, range(1, 40))
    found = orjson.loads(red10("signals", "--since", "1970-01-31", "--json").stdout)
    assert [row["bar"] for row in found] == list(range(30, 40))
    found = orjson.loads(red10("signals", "--since", "start", "-n", "2", "--json").stdout)
    assert [row["bar"] for row in found] == [38, 39]
    assert red10("signals", "--since", "start").stdout.count("\n") == 40


def test_nothing_to_show_says_what_to_do(red10: Red10, tenant: Tenant) -> None:
    assert "red10 demo" in red10("signals").stdout
    assert "No such signals" in red10("signals", "--symbol", "SPY").stdout
    assert orjson.loads(red10("signals", "--json").stdout) == []
    assert "red10 train" in red10("model", "list").stdout
    assert "red10 train" in red10("release", "list").stdout
    assert "red10 train" in red10("release", "show").stderr
    assert orjson.loads(red10("release", "list", "--json").stdout) == []
    assert "red10 demo" in red10("predictions").stdout


def test_missing_tenant_names_those_that_exist(red10: Red10, tenant: Tenant) -> None:
    assert "such as default" in red10("signals", "--tenant", "other").stderr


def test_tail_goes_back_through_pages_and_passes_over_what_is_no_record(client: redis.Redis, tenant: Tenant) -> None:
    add_signals(client, tenant, range(1, 3), "AAPL")
    add_signals(client, tenant, range(3, 500), "SPY")
    client.xadd(tenant.keys.partition(tenant.partition_of("SPY")).signals, {"no": "signal"}, id=f"{600 * 86_400_000}-0")
    tail = read_tail(client, tenant, "signals", ["AAPL"], 5)
    assert [record.bar for record in tail.records if isinstance(record, Signal)] == [1, 2]
    tail = read_tail(client, tenant, "signals", None, 450)
    assert [record.bar for record in tail.records if isinstance(record, Signal)] == list(range(50, 500))


def test_predictions_show_the_close_and_mark_what_was_trained_on(
    red10: Red10, client: redis.Redis, tenant: Tenant
) -> None:
    targets = ("open_5", "close_5", "close_10")
    prediction = Prediction.model_validate(
        {
            "series": "SPY:1d",
            "bar": 1,
            "ts": DAY,
            "close": 100.0,
            "targets": targets,
            "values": (0.5, 0.01, None),
            "levels": (1.0, 101.0, None),
            "versions": ("a", "b", "c"),
            "in_sample": (False, True, False),
            "release": "r",
            "src": "0:1-0:0:0",
        }
    )
    key = tenant.keys.partition(tenant.partition_of("SPY")).predictions
    add(client, key, prediction)
    header, line = red10("predictions").stdout.splitlines()
    assert header.split() == ["time", "(UTC)", "series", "(close)", "+5", "+10", "+15", "+20", "+25", "+30"]
    assert line.split() == ["1970-01-02", "00:00:00", "SPY:1d", "+1.01*", "-", "-", "-", "-", "-"]
    [found] = orjson.loads(red10("predictions", "--json").stdout)
    assert found["values"] == [0.5, 0.01, None]


@contextmanager
def running(env: dict[str, str], args: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which does not outlive the block whatever fails in it."""
    with subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def command_line(server: Server, *args: str) -> list[str]:
    code = "import sys; from ops.cli import main; main()"
    return [sys.executable, "-c", code, *args, "--streams-url", server.url, "--models-url", server.url]


@pytest.fixture
def env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def test_following_goes_on_where_the_newest_ended_and_ctrl_c_is_quiet(
    server: Server, client: redis.Redis, tenant: Tenant, env: dict[str, str]
) -> None:
    add_signals(client, tenant, range(1, 10))
    args = command_line(server, "signals", "-n", "2", "--follow", "--json")
    with running(env, args) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        shown = [orjson.loads(follower.stdout.readline())["bar"] for _ in range(2)]
        add_signals(client, tenant, range(10, 13))
        shown += [orjson.loads(follower.stdout.readline())["bar"] for _ in range(3)]
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 130
        assert follower.stderr.read() == ""
    assert shown == [8, 9, 10, 11, 12]


def test_reader_that_goes_away_ends_the_command_quietly(
    server: Server, client: redis.Redis, tenant: Tenant, env: dict[str, str]
) -> None:
    add_signals(client, tenant, range(1, 3000))
    with running(env, command_line(server, "signals", "--since", "start")) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.wait(20) == 1
        assert writer.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("args", [["--help"], ["config"], ["config", "--json"]])
def test_output_that_cannot_be_written_is_an_error_without_a_traceback(env: dict[str, str], args: list[str]) -> None:
    code = "from ops.cli import main; main()"
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code, *args], env=env, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.decode().startswith("red10: cannot go on reading or writing to its output: No space left")
    assert done.stderr.count(b"\n") == 1


def test_training_is_asked_for_and_its_result_shown(
    server: Server, client: redis.Redis, tenant: Tenant, env: dict[str, str]
) -> None:
    client.xgroup_create(tenant.keys.requests, TRAINERS, "0", mkstream=True)
    args = command_line(server, "train", "SPY:1d", "--targets", "close_5", "--as-of", "2024-05-01", "--json")
    with running(env, args) as asker:
        reply: Any = client.xreadgroup(TRAINERS, "me", {tenant.keys.requests: ">"}, block=20_000)
        [(_, [(entry, fields)])] = reply
        assert fields[b"targets"] == b'["close_5"]'
        assert fields[b"as_of"] == b"1714521600000000000"
        answer = TrainingResult.model_validate(
            {"request": entry.decode(), "series": "SPY:1d", "status": "refused", "reason": "needs 5 bars, found 1"}
        )
        add(client, tenant.keys.results, answer)
        assert asker.stdout is not None
        [found] = orjson.loads(asker.stdout.read())
        assert asker.wait(20) == 2
    assert (found["status"], found["reason"]) == ("refused", "needs 5 bars, found 1")


def test_training_without_waiting_and_without_a_trainer(red10: Red10, client: redis.Redis, tenant: Tenant) -> None:
    done = red10("train", "SPY:1d", "AAPL:1d", "--no-wait", "--json")
    posted = orjson.loads(done.stdout)
    assert [row["series"] for row in posted] == ["SPY:1d", "AAPL:1d"]
    assert client.xlen(tenant.keys.requests) == 2
    late = red10("train", "SPY:1d", "--timeout", "0.05")
    assert late.exit_code == 2
    assert "red10 up" in late.stderr


@pytest.fixture
def models(client: redis.Redis) -> dict[str, str]:
    """Two models in the store, one with two versions; champions released twice. Names -> champions' digests."""
    from modelstore.releases import Releases
    from modelstore.store import ModelStore
    from modelstore.version import NewVersion

    store, releases = ModelStore(client, Keys("default")), Releases(client, Keys("default"))
    digests = {}
    for name, seed in (("SPY:1d/close_5", 0), ("SPY:1d/high_5", 0), ("SPY:1d/close_5", 1)):
        manifest = Manifest(
            name=name,
            dataset={"rows": 100, "from": 0, "through": DAY},
            trained_through=DAY,
            feature_set={"name": "standard", "version": 1, "columns": ["a", "b"]},
            target={"column": name.split("/")[1][:-2], "horizon": 5},
            parameters={"rounds": 3},
            seed=seed,
            metrics={"rmse": 0.123456789},
        )
        bound = np.zeros(2, np.float32)
        version = NewVersion(manifest, Serving(DAY, bytes(8), bound, bound), b"forest", b"ubj")
        store.put_many([version])
        digests[name] = version.digest
        releases.promote({(name, "champion"): version.digest}, who="trainer", why="trained")
    return digests


def test_models_are_listed_with_their_champions(red10: Red10, models: dict[str, str]) -> None:
    rows = orjson.loads(red10("model", "list", "--json").stdout)
    assert [(row["name"], row["versions"], row["champion"], row["digest"]) for row in rows] == [
        ("SPY:1d/close_5", 2, 2, models["SPY:1d/close_5"]),
        ("SPY:1d/high_5", 1, 1, models["SPY:1d/high_5"]),
    ]
    table = red10("model", "list", "SPY:1d/high").stdout
    assert "high_5" in table
    assert "close_5" not in table
    assert max(map(len, table.splitlines())) <= 80
    assert "No model begins with 'X'" in red10("model", "list", "X").stdout


def test_version_is_shown_by_any_reference(red10: Red10, models: dict[str, str]) -> None:
    digest = models["SPY:1d/close_5"]
    for ref in ("SPY:1d/close_5", "SPY:1d/close_5@2", digest[:8], f"sha:{digest[:8]}"):
        found = orjson.loads(red10("model", "show", ref, "--json").stdout)
        assert (found["digest"], found["number"], found["aliases"]) == (digest, 2, ["champion"])
        assert found["manifest"]["seed"] == 1
    shown = red10("model", "show", "SPY:1d/close_5").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "0.123457" in shown
    missing = red10("model", "show", "SPY:1d/close_5@9")
    assert missing.exit_code == 2
    assert "has no version 9" in missing.stderr


def test_what_was_decided_about_a_version_is_shown_with_its_reason(
    red10: Red10, client: redis.Redis, tenant: Tenant, models: dict[str, str]
) -> None:
    name, digest = "SPY:1d/close_5", models["SPY:1d/close_5"]
    notes = [
        Note(name, DAY, "first", digest, None, "the first version of this model"),
        Note(name, 2 * DAY, "drift", digest, None, "does worse against naive than it did, since bar 12"),
        Note(name, 2 * DAY, "dropped", "f" * 64, "e" * 64, "about others"),
    ]
    Verdicts(client, tenant.keys).note(notes)
    found = orjson.loads(red10("model", "show", name, "--json").stdout)["verdicts"]
    assert [(verdict["verdict"], verdict["at"], verdict["reason"]) for verdict in found] == [
        (note.verdict, note.at, note.reason) for note in notes[:2]
    ]
    shown = red10("model", "show", name).stdout
    assert "1970-01-03 00:00:00" in shown
    assert "since bar 12" in " ".join(shown.split())
    assert "about others" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_releases_are_listed_newest_first_and_shown(red10: Red10, models: dict[str, str]) -> None:
    rows = orjson.loads(red10("release", "list", "--json").stdout)
    assert [(row["number"], row["in_force"]) for row in rows] == [(3, True), (2, False), (1, False)]
    assert max(map(len, red10("release", "list").stdout.splitlines())) <= 80
    found = orjson.loads(red10("release", "show", "--json").stdout)
    assert found["in_force"]
    assert {row["name"]: row["digest"] for row in found["aliases"]} == models
    first = orjson.loads(red10("release", "show", "1", "--json").stdout)
    assert not first["in_force"]
    assert len(first["aliases"]) == 1
    assert max(map(len, red10("release", "show").stdout.splitlines())) <= 80


def test_status_is_shown_in_80_columns_and_as_json(red10: Red10, tenant: Tenant) -> None:
    red10("publish", "SPY", "1", "--ts", "2024-05-01")
    shown = red10("status")
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "nobody" in shown.stdout
    found = orjson.loads(red10("status", "--json").stdout)
    assert [part["lag"] for part in found["partitions"]].count(1) == 1
    assert not found["servers"][0]["embedded"]
    missing = red10("status", "--tenant", "other")
    assert "does not exist yet" in missing.stdout


def test_status_says_which_required_group_is_missing(
    red10: Red10, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    red10("publish", "SPY", "1", "--ts", "2024-05-01")
    monkeypatch.setenv("RED10_REQUIRED_GROUPS", "archive")
    shown = red10("status")
    assert "required group archive was not made in partition" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    found = orjson.loads(red10("status", "--json").stdout)
    assert [part["missing"] for part in found["partitions"]].count(["archive"]) == 1


def test_status_of_a_server_that_is_away_fails_and_shows_the_other(server: Server) -> None:
    args = ["status", "--streams-url", "redis://127.0.0.1:1", "--models-url", server.url]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 2
    assert "away" in done.stdout
    assert "models: 0" in done.stdout


def test_tenants_are_listed(red10: Red10, tenant: Tenant) -> None:
    [row] = orjson.loads(red10("tenant", "list", "--json").stdout)
    assert (row["tenant"], row["partitions"], row["intervals"]) == ("default", 2, ["1d"])
    assert "default" in red10("tenant", "list").stdout


def test_embedded_servers_serve_commands_and_keep_what_they_are_given(tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["publish", "SPY", "1", "--data-dir", "d"]).exit_code == 0
    streams = RoleDirectory.of(tmp_path / "d", "streams")
    assert streams.lock("server").free()
    done = runner.invoke(app, ["status", "--json", "--data-dir", "d"])
    found = orjson.loads(done.stdout)
    assert sum(part["lag"] for part in found["partitions"]) == 1
    assert found["servers"][0]["port"] == read_json(streams.data_json)["port"]
    keys = runner.invoke(app, ["keys", "SPY", "--data-dir", "d"])
    assert f"redis-cli -p {found['servers'][0]['port']} XADD" in keys.stdout
    assert "red10 up" in keys.stderr


def test_setting_that_differs_from_the_stored_one_is_refused(
    red10: Red10, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RED10_PARTITIONS", "5")
    done = red10("publish", "SPY", "1")
    assert done.exit_code == 2
    assert "was created with partitions = 2, but 5" in done.stderr


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("now", 10 * DAY),
        ("2h", 10 * DAY - 7200 * NS),
        ("1.5d", 10 * DAY - 3 * DAY // 2),
        ("1970-01-02", DAY),
        ("1970-01-02T01:00:00+01:00", DAY),
        ("1970-01-01T00:00:00.000001Z", 1000),
        ("86400", DAY),
        ("1714521600000", 1714521600 * NS),
        ("1714521600000000001", 1714521600 * NS + 1),
    ],
)
def test_times_are_read(text: str, ns: int) -> None:
    assert parse_time(text, 10 * DAY) == ns


@pytest.mark.parametrize("text", ["", "yesterday", "-5", "99999999999999999999", "2024-13-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadTime):
        parse_time(text, 0)


def test_numbers_are_shown_short() -> None:
    assert (percent(None), percent(0.0), percent(0.01, "*")) == ("-", "+0.00", "+1.01*")
    assert [show_age(seconds) for seconds in (None, 1.0, 90.0, 7200.0, 2.5 * 86400)] == [
        None,
        "1.0 s",
        "1.5 min",
        "2.0 h",
        "2.5 d",
    ]

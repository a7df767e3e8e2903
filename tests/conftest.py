"""Fixtures shared by all tests: real Redis servers, 6.2 (from pip) and >= 7 (from the system).

What pip cannot bring is skipped with its reason where it is missing, and fails in CI.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import redis
from hypothesis import settings

from tests.servers import Server, embedded_binary, required, system_binary

# A shell's background job ignores Ctrl-C, and so would every process that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes on a machine that others use as well says nothing.
settings.register_profile("red10", deadline=None)
settings.load_profile("red10")


def binary_of(kind: str) -> str:
    """The server binary behind a fixture parameter; skips, or fails in CI, when it is missing."""
    if kind == "embedded":
        return embedded_binary()
    found = system_binary()
    if found is None:
        message = "needs a redis-server >= 7 on PATH (Debian: apt-get install redis-server)"
        if required("redis-server"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session", params=["embedded", "system"])
def shared_server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server per kind for the whole session; use `server`, which empties it."""
    server = Server(binary_of(request.param)).start()
    yield server
    server.close()


@pytest.fixture
def server(shared_server: Server) -> Server:
    """An empty Redis; every test that takes it runs on 6.2 and on >= 7."""
    with shared_server.client() as client:
        client.flushall()
        client.config_set("maxmemory", 0)
    return shared_server


@pytest.fixture
def client(server: Server) -> Iterator[redis.Redis]:
    """A plain client of `server`, replies as bytes."""
    with server.client() as found:
        yield found

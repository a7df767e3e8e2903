"""A TCP proxy that stands between clients and a Redis and breaks what passes: drops a reply, cuts, freezes, holds.

One `Gate` listens per process under test, so that a fault can be aimed. All gates live on the event loop of one thread,
`ProxyThread`; their methods may be called from any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

#: Commands whose lost reply leaves it open whether something was written.
WRITES = (b"EVALSHA\r\n", b"EVAL\r\n", b"XADD\r\n", b"EXEC\r\n", b"SET\r\n", b"XGROUP\r\n")
_CHUNK = 65_536


@dataclass(eq=False)
class _Link:
    """One client's connection and the one to Redis behind it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    swallow: bool = False

    def abort(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


@dataclass
class _Armed:
    """A trap for the next request that has one of the words."""

    words: tuple[bytes, ...]
    sprung: asyncio.Event = field(default_factory=asyncio.Event)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)


class Gate:
    """A listener in front of one Redis.

    Attributes:
        port: where it listens, on loopback.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: str) -> None:
        self.port = 0
        self._loop = loop
        self._socket = socket
        self._links: set[_Link] = set()
        self._open = asyncio.Event()
        self._open.set()
        self._drop: _Armed | None = None
        self._hold: _Armed | None = None
        self._held: _Armed | None = None
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self._open.set()
        for armed in (self._held, self._drop):
            if armed is not None:
                armed.let_go.set()
                armed.sprung.set()
        for link in list(self._links):
            link.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._socket)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, to_server)
        self._links.add(link)
        pumps = {
            asyncio.ensure_future(self._up(link, reader)),
            asyncio.ensure_future(self._down(link, from_server)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.abort()
            self._links.discard(link)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _up(self, link: _Link, reader: asyncio.StreamReader) -> None:
        """From the client to Redis."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._open.wait()
                hold = self._hold
                if hold is not None and any(word in data for word in hold.words):
                    self._hold, self._held = None, hold
                    hold.sprung.set()
                    await hold.let_go.wait()
                drop = self._drop
                if drop is not None and any(word in data for word in drop.words):
                    self._drop = None
                    link.swallow = True
                    drop.sprung.set()
                link.server.write(data)
                await link.server.drain()

    async def _down(self, link: _Link, reader: asyncio.StreamReader) -> None:
        """From Redis to the client."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if link.swallow:
                    return
                await self._open.wait()
                link.client.write(data)
                await link.client.drain()

    # Faults; each returns once it is done.

    def cut(self, choose: random.Random | None = None) -> int:
        """Cut all connections, or of some a random half; how many."""

        async def run() -> int:
            links = list(self._links)
            if choose is not None and links:
                links = choose.sample(links, -(-len(links) // 2))
            for link in links:
                link.abort()
            return len(links)

        return self._call(run())

    def drop_reply(self, timeout_s: float, words: tuple[bytes, ...] = WRITES) -> bool:
        """Let the next request that writes through, swallow its reply and cut; whether there was one in time."""

        async def run() -> bool:
            armed = self._drop = _Armed(words)
            try:
                await asyncio.wait_for(armed.sprung.wait(), timeout_s)
            except TimeoutError:
                self._drop = None
                return False
            return True

        return self._call(run())

    def freeze(self) -> None:
        """Let nothing pass in either direction until `thaw`; connections stay open."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def thaw(self) -> None:
        """Let all that was held back pass."""
        self._loop.call_soon_threadsafe(self._open.set)

    def hold(self, *words: bytes) -> Held:
        """Stop the next request that has one of the words, until let go; everything else passes."""

        async def run() -> _Armed:
            self._hold = _Armed(words)
            return self._hold

        return Held(self._loop, self._call(run()))

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class Held:
    """A request that is stopped on its way, or will be."""

    def __init__(self, loop: asyncio.AbstractEventLoop, armed: _Armed) -> None:
        self._loop = loop
        self._armed = armed

    def wait(self, timeout_s: float) -> bool:
        """Wait until the request has come; whether it has."""

        async def run() -> bool:
            try:
                await asyncio.wait_for(self._armed.sprung.wait(), timeout_s)
            except TimeoutError:
                return False
            return True

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def let_go(self) -> None:
        """Send the request on."""
        self._loop.call_soon_threadsafe(self._armed.let_go.set)


class ProxyThread:
    """The thread that gates live in; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="proxy")
        self._gates: list[Gate] = []

    def gate(self, socket: str) -> Gate:
        """A new gate in front of the Redis at a unix socket."""

        async def run() -> Gate:
            found = Gate(self._loop, socket)
            await found._start()
            return found

        gate = asyncio.run_coroutine_threadsafe(run(), self._loop).result()
        self._gates.append(gate)
        return gate

    def __enter__(self) -> ProxyThread:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        async def run() -> None:
            for gate in self._gates:
                gate._stop()
            while rest := asyncio.all_tasks() - {asyncio.current_task()}:
                # A held request waits for ever; what serves a connection must not be cancelled, it cleans up.
                await asyncio.wait(rest, timeout=0.1)
                for gate in self._gates:
                    gate._stop()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

"""Faust without Kafka: the app, its web views, and running it until it is told to stop.

Faust supplies agents and their supervision, timers and the web server. Its Kafka transport is never started (a boot
strategy says so). The order of stopping is ours: Faust would stop services before agents, in the midst of a commit.
`run` therefore calls the app's `ordered_stop` first: stop reading, finish the commit, release leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.web import View

from streams.channel import WorkChannel, carry_out_all

#: Text format of Prometheus.
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _WithoutKafka(BootStrategy):  # type: ignore[misc]
    enable_kafka = False

    def tables(self) -> list[Any]:
        return []


class App(faust.App):  # type: ignore[misc]
    """A Faust app on Redis."""

    BootStrategy = _WithoutKafka

    def page(
        self, path: str, *, base: type[View] = View, cors_options: Any = None, name: str | None = None
    ) -> Callable[[Any], type[View]]:
        """Serve a handler, or a class of views, on a path.

        Faust's own also notes the page down for its discovery, and for that looks for the files of all modules that are
        loaded: some 30 ms of each start, for pages of Faust that nobody of Red10 asks for.
        """

        def serve(handler: Any) -> type[View]:
            view: Any = handler if isinstance(handler, type) else base.from_handler(handler)
            view.view_name, view.view_path = name or view.__name__, path
            self.web.add_view(view, cors_options=cors_options)
            return view  # type: ignore[no-any-return]

        return serve

    async def on_shutdown(self) -> None:
        """Close the event loop that Faust made for the thread of a Kafka consumer that never starts."""
        await super().on_shutdown()
        thread = getattr(self._consumer, "_thread", None)
        if thread is not None:
            thread.thread_loop.close()


def make_app(name: str, *, web_host: str, web_port: int) -> App:
    """Build the app; nothing is started and nothing is bound.

    Args:
        web_port: 0, or a port that is taken, gives a free one; see `app.conf.web_port`.
    """
    port = free_port(web_host, web_port)
    return App(
        name,
        broker="kafka://unused",
        store="memory://",
        datadir=tempfile.gettempdir(),
        # The server binds `web_bind`; `web_host` alone would leave it on 0.0.0.0.
        web_bind=web_host,
        web_host=web_host,
        web_port=port,
        web_in_thread=False,
        loghandlers=[],
    )


def free_port(host: str, wanted: int) -> int:
    """`wanted` if it can be bound on `host`, else a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (wanted, 0):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                return int(probe.getsockname()[1])
    return wanted


def work_agent(app: App, name: str) -> WorkChannel:
    """Declare an agent that carries out units of work, one at a time; the channel to put them in."""
    channel = WorkChannel(app)
    # What `app.agent` does, without noting it down for Faust's discovery: see `App.page`.
    agent = app.conf.Agent(carry_out_all, name=name, app=app, channel=channel, concurrency=1)
    app.agents[agent.name] = agent
    return channel


def web_views(app: App, metrics: Callable[[], bytes], health: Callable[[], tuple[bool, dict[str, Any]]]) -> None:
    """Serve `/metrics` (Prometheus text) and `/health` (JSON; 200 or 503)."""

    async def serve_metrics(view: Any, request: Any) -> Any:
        return view.bytes(metrics(), headers={"Content-Type": METRICS_TYPE})

    async def serve_health(view: Any, request: Any) -> Any:
        healthy, body = health()
        return view.json(body, status=200 if healthy else 503)

    for path, name, serve in (
        ("/metrics", "red10-metrics", serve_metrics),
        ("/health", "red10-health", serve_health),
    ):
        app.page(path, name=name)(serve)


async def run(app: App, main: Callable[[asyncio.Event], Awaitable[None]], channel: WorkChannel) -> None:
    """Start the app, run `main` until it ends or a signal asks to stop, then stop in order.

    Args:
        main: gets an event that SIGINT and SIGTERM set; when it is set, it stops reading, finishes what is under way,
            releases what it holds, and returns.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await app.start()
    # Without a Kafka consumer nobody opens the flow, and every event would be skipped.
    app.flow_control.resume()
    try:
        await main(stop)
    finally:
        await channel.end()
        await app.stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

"""Faust without Kafka: agents carry out work, survive faults, stop in order; the web views answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from typing import Any

import pytest

from streams.app import App, free_port, make_app, run, web_views, work_agent

pytestmark = pytest.mark.filterwarnings("default")  # faust's own dependencies warn


def app_on_free_port() -> App:
    return make_app("test", web_host="127.0.0.1", web_port=0)


def fetch(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


async def test_work_is_carried_out_one_at_a_time_in_order_and_faults_reach_their_owner() -> None:
    app = app_on_free_port()
    channel = work_agent(app, "worker")
    order: list[str] = []

    async def step(name: str) -> str:
        order.append(f"{name} begins")
        await asyncio.sleep(0)
        order.append(f"{name} ends")
        return name

    async def fault() -> None:
        raise ValueError("a fault")

    async def main(stop: asyncio.Event) -> None:
        results = await asyncio.gather(
            channel.do(lambda: step("a")), channel.do(fault), channel.do(lambda: step("b")), return_exceptions=True
        )
        assert results[0] == "a"
        assert isinstance(results[1], ValueError)
        assert results[2] == "b"

    await asyncio.wait_for(run(app, main, channel), 20)
    assert order == ["a begins", "a ends", "b begins", "b ends"]


async def test_a_signal_asks_to_stop_and_work_under_way_is_finished() -> None:
    app = app_on_free_port()
    channel = work_agent(app, "worker")
    done: list[str] = []

    async def main(stop: asyncio.Event) -> None:
        async def slow() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            await stop.wait()
            done.append("finished")

        await channel.do(slow)

    await asyncio.wait_for(run(app, main, channel), 20)
    assert done == ["finished"]


async def test_metrics_and_health_are_served_on_loopback_only() -> None:
    app = app_on_free_port()
    channel = work_agent(app, "worker")
    healthy = [True]
    web_views(app, lambda: b"red10_x 1\n", lambda: (healthy[0], {"partitions": 3}))
    found: dict[str, Any] = {}

    async def main(stop: asyncio.Event) -> None:
        base = f"http://127.0.0.1:{app.conf.web_port}"
        found["metrics"] = await asyncio.to_thread(fetch, base + "/metrics")
        found["health"] = await asyncio.to_thread(fetch, base + "/health")
        healthy[0] = False
        found["ill"] = await asyncio.to_thread(fetch, base + "/health")

    await asyncio.wait_for(run(app, main, channel), 20)
    status, kind, body = found["metrics"]
    assert (status, body) == (200, "red10_x 1\n")
    assert kind.startswith("text/plain")
    assert (found["health"][0], json.loads(found["health"][2])) == (200, {"partitions": 3})
    assert found["ill"][0] == 503
    assert app.conf.web_bind == "127.0.0.1"


def test_a_taken_port_gives_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = free_port("127.0.0.1", port)
    assert found not in (0, port)
    assert free_port("127.0.0.1", port) == port

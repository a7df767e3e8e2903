"""What the kinds of worker process are wired with: settings become clients, tenants, apps and names."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from dataclasses import dataclass

import redis.asyncio
from pydantic import SecretStr

from consumers.metrics import Metrics
from streams.app import App, make_app, work_agent
from streams.channel import WorkChannel
from streams.clients import connect
from streams.errors import ConfigurationError
from streams.settings import Origins, Settings
from streams.tenant import Tenant, open_tenant

log = logging.getLogger("red10.worker")

#: Seconds between two looks at gauges (lag, age, what is up).
GAUGES_EVERY_S = 2.0


@dataclass(slots=True)
class Urls:
    """Where the two roles are."""

    streams: SecretStr
    models: SecretStr


def urls_of(settings: Settings) -> Urls:
    """The URLs of both roles.

    Raises:
        ConfigurationError: one is not set.
    """
    if settings.streams_url is None or settings.models_url is None:
        raise ConfigurationError(
            "a worker needs both streams_url and models_url: `red10 worker` finds the embedded ones"
        )
    return Urls(settings.streams_url, settings.models_url)


def worker_name(kind: str) -> str:
    """A name that no other process has: containers may share host name and process id."""
    return f"{socket.gethostname()}-{os.getpid()}-{kind}-{secrets.token_hex(2)}"


def app_of(settings: Settings, role: str, metrics: Metrics) -> tuple[App, WorkChannel]:
    """A Faust app for a role, and the channel that feeds its agent."""
    app = make_app(f"red10-{role}", web_host=settings.web_host, web_port=settings.web_port)
    if app.conf.web_port != settings.web_port and settings.web_port:
        log.warning("port %d is taken: /metrics is on %d", settings.web_port, app.conf.web_port)
    return app, work_agent(app, role)


def tenant_of(settings: Settings, origins: Origins) -> Tenant:
    """The tenant, opened or created. Blocks."""
    with connect(urls_of(settings).streams) as client:
        return open_tenant(client, settings, origins)


async def server_version(client: redis.asyncio.Redis) -> str:
    """The version of a Redis, such as `7.0.15`."""
    info = await client.info("server")
    return str(info["redis_version"])

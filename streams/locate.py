"""Where the Redis of a role is: the URL that is set, or the embedded server that runs in the data directory.

Reads only. The embedded server leaves `<data_dir>/<role>/server.json` while it runs; since a killed one leaves a stale
notice, its server is asked before it is believed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import quote

import orjson
from redis.exceptions import BusyLoadingError, RedisError

from streams.clients import connect
from streams.errors import ConfigurationError
from streams.settings import Settings

Role = Literal["streams", "models"]


def locate(settings: Settings, role: Role) -> str:
    """The URL of a role's Redis.

    Raises:
        ConfigurationError: no URL is set, and no embedded server of that role answers.
    """
    set_url = settings.streams_url if role == "streams" else settings.models_url
    if set_url is not None:
        return set_url.get_secret_value()
    notice = settings.data_dir.absolute() / role / "server.json"
    socket = _socket(notice)
    if socket is not None:
        url = f"unix://{quote(socket)}"
        if _answers(url):
            return url
    variable = f"RED10_{role.upper()}_URL"
    raise ConfigurationError(
        f"no Redis for {role}: {variable} is not set, and no embedded server runs in {settings.data_dir.absolute()}. "
        f"Start one with `red10 up` (in this directory, or with the same --data-dir), or set {variable}"
    )


def _socket(notice: Path) -> str | None:
    try:
        found = orjson.loads(notice.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        # Missing, or of another user: as if no server ran.
        return None
    socket = found.get("socket") if isinstance(found, dict) else None
    return socket if isinstance(socket, str) else None


def _answers(url: str) -> bool:
    with connect(url) as client:
        try:
            client.ping()
        except BusyLoadingError:
            return True
        except (RedisError, OSError):
            return False
    return True

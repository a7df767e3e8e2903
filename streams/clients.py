"""Redis clients as Red10 uses them, and the one place where driver errors are judged.

Clients that write have no automatic retries: redis-py's default applies a command twice when its reply is lost, EXEC
and EVALSHA included. Whoever owns the work decides what a lost reply means. `classify` says what to do about an error,
`Backoff` how long to wait, `translate` turns it into a `Red10Error` for people.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis
import redis.asyncio
from pydantic import SecretStr
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from streams.errors import BrokenKey, ConfigurationError, Red10Error, RedisRefused, RedisUnavailable

#: Seconds that a reply may take beyond any BLOCK; a script of a full batch takes some 10 ms.
REPLY_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
#: Connections of one asyncio client: each owned partition holds one while it waits for input, and there may be
#: thousands of partitions. redis-py's own limit is 100.
MOST_CONNECTIONS = 10_000

#: How much a connection reads at once: redis-py's own choice, and what saves a fifth of the time that reading thousands
#: of models takes.
READ_BYTES, BULK_BYTES = 1 << 16, 1 << 20

#: Error codes that pass by themselves: try again with a back-off, nothing was written.
TRANSIENT = frozenset(
    {"OOM", "MISCONF", "NOREPLICAS", "READONLY", "LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"}
)


def connect(url: SecretStr | str, *, block_ms: int = 0, read_bytes: int = READ_BYTES) -> redis.Redis:
    """A blocking client without automatic retries, replies as bytes.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        block_ms: the longest BLOCK that will be asked for.
        read_bytes: how much each connection reads at once, and sets aside for it.

    Raises:
        ConfigurationError: the URL is none.
    """
    try:
        return redis.Redis.from_url(
            _plain(url),
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=REPLY_TIMEOUT_S + block_ms / 1000,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_read_size=read_bytes,
        )
    except ValueError as error:
        raise _bad_url(url, error) from error


def connect_async(url: SecretStr | str, *, block_ms: int = 0) -> redis.asyncio.Redis:
    """The same for asyncio.

    Raises:
        ConfigurationError: the URL is none.
    """
    try:
        return redis.asyncio.Redis.from_url(
            _plain(url),
            protocol=2,
            max_connections=MOST_CONNECTIONS,
            retry=AsyncRetry(NoBackoff(), 0),
            socket_timeout=REPLY_TIMEOUT_S + block_ms / 1000,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
        )
    except ValueError as error:
        raise _bad_url(url, error) from error


def read_raw(client: redis.asyncio.Redis) -> redis.asyncio.Redis:
    """Have XREAD give entries as `[id, [name, value, …]]`: redis-py's dictionaries cost more than decoding does.

    Returns:
        The same client.
    """

    def as_it_is(response: Any, **kwargs: Any) -> Any:
        return response

    client.set_response_callback("XREAD", as_it_is)
    return client


def _plain(url: SecretStr | str) -> str:
    return url.get_secret_value() if isinstance(url, SecretStr) else url


def _bad_url(url: SecretStr | str, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"{safe_url(url)!r} is no Redis URL ({error}): write redis://HOST:PORT or unix:///PATH")


def safe_url(url: SecretStr | str) -> str:
    """The URL without user and password, for messages."""
    try:
        parts = urlsplit(_plain(url))
        netloc = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, netloc, parts.path, "", ""))
    except ValueError:
        return "(an unreadable URL)"


def where_of(client: redis.Redis) -> str:
    """The URL of the server that a client talks to, without user and password, for messages."""
    found = client.connection_pool.connection_kwargs
    if "path" in found:
        return f"unix://{found['path']}"
    return f"redis://{found.get('host', 'localhost')}:{found.get('port', 6379)}/{found.get('db') or 0}"


class Verdict(enum.Enum):
    """What to do about an error."""

    RETRY = "retry"  #: wait and try the same again
    RELOAD = "reload"  #: the server forgot the script: send it again
    FAIL = "fail"  #: trying again will not help


def error_code(error: BaseException) -> str:
    """The code of a Redis error (`OOM`, `NOSCRIPT`, `WRONGTYPE`, …), or the name of its class.

    redis-py strips some codes into classes, and in a pipeline puts the command before the text; a 6.2 script error
    carries the inner code in its text, as `-OOM …`.
    """
    if isinstance(error, BusyLoadingError):
        return "LOADING"
    text = str(error).rpartition("of pipeline caused error: ")[2].lstrip("('\"")
    for code in (*TRANSIENT, "NOSCRIPT", "NOGROUP", "WRONGTYPE", "BUSYGROUP"):
        if text.startswith(code) or f"-{code} " in text:
            return code
    known = {
        "OutOfMemoryError": "OOM",
        "ReadOnlyError": "READONLY",
        "NoScriptError": "NOSCRIPT",
        "TryAgainError": "TRYAGAIN",
        "ClusterDownError": "CLUSTERDOWN",
        "MasterDownError": "MASTERDOWN",
    }
    return known.get(type(error).__name__, type(error).__name__)


def classify(error: BaseException) -> Verdict:
    """Judge an error of redis-py or of the network. Authentication and permission errors fail."""
    if isinstance(error, AuthenticationError | NoPermissionError):
        return Verdict.FAIL
    code = error_code(error)
    if code == "NOSCRIPT":
        return Verdict.RELOAD
    if code in TRANSIENT or isinstance(error, ConnectionError | TimeoutError | OSError):
        return Verdict.RETRY
    return Verdict.FAIL


@contextmanager
def expecting(key: str, kind: str) -> Iterator[None]:
    """Turn a refusal of a key's type, which does not name the key, into `BrokenKey`."""
    try:
        yield
    except ResponseError as error:
        if error_code(error) == "WRONGTYPE":
            raise BrokenKey(key, kind) from error
        raise


def lost_reply(error: BaseException) -> bool:
    """Whether the command may have been carried out although it raised: the connection broke or timed out."""
    return isinstance(error, ConnectionError | TimeoutError | OSError) and not isinstance(error, BusyLoadingError)


def explain(error: BaseException, url: SecretStr | str) -> Red10Error:
    """A driver error in words for people."""
    where = safe_url(url)
    code = error_code(error)
    if isinstance(error, AuthenticationError | NoPermissionError):
        return ConfigurationError(f"Redis at {where} refuses this user: {error}. Check the URL's user and password.")
    if code in TRANSIENT:
        return RedisRefused(code, f"Redis at {where} refuses for now: {error}")
    if classify(error) is Verdict.RETRY:
        return RedisUnavailable(where, f"{str(error).rstrip('.')}. Is the server running, and is the URL right?")
    return Red10Error(f"Redis at {where}: {error}")


@contextmanager
def translate(url: SecretStr | str) -> Iterator[None]:
    """Turn driver errors inside the block into `Red10Error`s."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise explain(error, url) from error


@dataclass(slots=True)
class Backoff:
    """Waiting times between tries: doubled from `first` to `cap` seconds; `reset` after a success."""

    first: float = 0.05
    cap: float = 2.0
    _next: float = 0.0

    def next(self) -> float:
        """Seconds to wait before the next try."""
        self._next = min(self.cap, max(self.first, self._next * 2))
        return self._next

    def reset(self) -> None:
        """The last try succeeded."""
        self._next = 0.0


__all__ = [
    "Backoff",
    "ResponseError",
    "Verdict",
    "classify",
    "connect",
    "connect_async",
    "error_code",
    "explain",
    "lost_reply",
    "read_raw",
    "safe_url",
    "translate",
    "where_of",
]

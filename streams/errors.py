"""The one root of everything that Red10 raises on purpose, and the errors of the log.

A message says what is wrong, where, and what to do next; the data behind it is kept as attributes. Errors of
redis-py are translated in `streams.clients`, nowhere else.
"""

from __future__ import annotations

from typing import ClassVar


class Red10Error(Exception):
    """Root of all errors that Red10 raises on purpose; the command prints its text and exits with `exit_code`."""

    exit_code: ClassVar[int] = 2


class BadRecord(Red10Error):
    """A record (tick, entry, request) breaks the wire format; carries `reason`, a short stable word for metrics."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class BadName(Red10Error):
    """A symbol, interval, series, tenant or target that cannot be one."""


class ConfigurationError(Red10Error):
    """Settings that contradict themselves, the environment, or what is stored."""


class TenantMismatch(ConfigurationError):
    """The stored partition count or pipeline of a tenant differs from the one asked for."""


class RedisUnavailable(Red10Error):
    """Redis does not answer at `where`; the work may be tried again later."""

    def __init__(self, where: str, detail: str) -> None:
        super().__init__(f"Redis at {where} is not available: {detail}")
        self.where = where


class RedisRefused(Red10Error):
    """Redis answers but refuses for now (`code`: OOM, MISCONF, LOADING, …); the work may be tried again later."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class BrokenKey(Red10Error):
    """`key` holds something of the wrong type where Red10 keeps a `kind`: nothing was written, people must act."""

    def __init__(self, key: str, kind: str) -> None:
        super().__init__(
            f"{key} is no {kind}. Nothing is lost and nothing was written; rename it (redis-cli RENAME '{key}' "
            f"'{key}:old') or delete it, and the work goes on"
        )
        self.key = key
        self.kind = kind

"""Waiting for a Redis that is away: with capped back-off, said once when it goes and once when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

from streams.clients import Backoff, Verdict, classify
from streams.errors import RedisRefused, RedisUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The wait ended because the process is to stop."""


def passes(error: BaseException) -> bool:
    """Whether an error of the driver, or its translation, goes away by itself."""
    if isinstance(error, RedisUnavailable | RedisRefused):
        return True
    return isinstance(error, RedisError | OSError) and classify(error) is Verdict.RETRY


class Patience:
    """Repeats what fails because one Redis role is away. One object per role, so that each absence is said once."""

    def __init__(self, role: str, stop: asyncio.Event) -> None:
        self._role = role
        self._stop = stop
        self._away = False
        self._backoff = Backoff()

    @property
    def away(self) -> bool:
        """Whether the last try found the role away."""
        return self._away

    async def __call__(self, attempt: Callable[[], Awaitable[T]], *, also: tuple[type[Exception], ...] = ()) -> T:
        """Try until it succeeds. The attempt must be harmless to repeat.

        Args:
            also: further errors that pass by themselves.

        Raises:
            Stopped: the stop event was set while waiting.
            Exception: as the attempt raised it, if waiting will not help.
        """
        while True:
            try:
                found = await attempt()
            except Exception as error:
                if not (passes(error) or isinstance(error, also)):
                    raise
                await self._wait(error)
            else:
                if self._away:
                    log.warning("the %s Redis is back", self._role)
                    self._away = False
                    self._backoff.reset()
                return found

    async def _wait(self, error: Exception) -> None:
        if not self._away:
            log.warning("waiting for the %s Redis: %s", self._role, error)
            self._away = True
        try:
            await asyncio.wait_for(self._stop.wait(), self._backoff.next())
        except TimeoutError:
            return
        raise Stopped

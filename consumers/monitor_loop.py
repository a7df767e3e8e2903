"""The monitor as a process has it: rounds until told to stop, with patience, metrics and health. Decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from consumers.metrics import Metrics
from consumers.monitor import Monitor
from consumers.patience import Patience, Stopped
from modelstore.errors import ReleaseConflict
from modelstore.saves import SaveFailed
from streams.channel import WorkChannel

#: Label `group` of the monitor's lag. It needs no consumer group: its checkpoint is its own.
MONITORS = "monitor"


class MonitorLoop:
    """Runs a monitor. Either Redis that is away is waited for, and said once."""

    def __init__(
        self, monitor: Monitor, metrics: Metrics, channel: WorkChannel, stop: asyncio.Event, *, poll_ms: int
    ) -> None:
        """Put it together.

        Args:
            channel: its agent carries out the rounds.
            poll_ms: how long to wait when there was nothing to read.
        """
        self._monitor = monitor
        self._metrics = metrics
        self._channel = channel
        self._stop = stop
        self._poll_s = poll_ms / 1000
        self._streams, self._models = Patience("streams", stop), Patience("models", stop)

    async def run(self) -> None:
        """Go on until the stop event is set; the round under way is finished, or done again after the next start.

        Raises:
            redis.RedisError: waiting will not help, such as missing permissions.
        """
        with contextlib.suppress(Stopped):
            while not self._stop.is_set():
                if not await self._channel.do(self._round):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stop.wait(), self._poll_s)

    async def _round(self) -> bool:
        """One round; whether there was anything to read."""
        found = await self._streams(lambda: asyncio.to_thread(self._monitor.take))
        self._metrics.redis("streams", up=True)
        if not found:
            for key in self._monitor.inputs:
                self._metrics.lag(key, MONITORS, 0)
            return False
        await self._models(lambda: asyncio.to_thread(self._monitor.judge), also=(ReleaseConflict, SaveFailed))
        self._metrics.redis("models", up=True)
        report = await self._streams(lambda: asyncio.to_thread(self._monitor.settle))
        self._metrics.monitored(
            outcomes=report.outcomes,
            promotions=report.promotions,
            drifts=report.drifts,
            requests=report.requests,
        )
        for key in self._monitor.inputs if report.behind else ():
            self._metrics.lag(key, MONITORS, None)
        return True

    @property
    def away(self) -> list[str]:
        """Roles that were away at the last try."""
        return [role for role, patience in (("streams", self._streams), ("models", self._models)) if patience.away]

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Whether the process can do its work, and in what state it is."""
        away = self.away
        return not away, {"role": "monitor", "state": f"{' and '.join(away)} Redis away" if away else "running"}

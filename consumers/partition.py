"""One owned partition: read, compute, commit, until the lease is lost or given back.

`PartitionTask.run` is the partition's loop. It reads from the checkpoint, has the agent carry out each batch
(`process`), and acts on the answer: go on, reload, or end. It never raises for what is expected: lost connections and
refusals are waited out, a batch that cannot be computed or a broken key is said once, counted, and tried again with a
back-off, because only people can mend those.

If the process dies anywhere in here, the next owner reads the same entries from the same checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import Any, cast

import redis.asyncio
from redis.exceptions import RedisError

from consumers.metrics import Metrics
from consumers.recovery import Fenced, FindRelease, recover
from consumers.scorer import Scorer, Spec, releases_in
from modelstore.loaded import LoadedRelease
from streams.channel import WorkChannel
from streams.clients import Backoff, Verdict, classify, error_code
from streams.codec import RawEntry, decode
from streams.commit import Answer, Commit, Committer
from streams.errors import Red10Error, RedisRefused, RedisUnavailable
from streams.ids import StreamID
from streams.keys import PartitionKeys
from streams.publish import release_fields
from streams.resume import Resume, look, resume

log = logging.getLogger("red10.partition")

#: Seconds between two looks for the anchor while there is nothing to read.
ANCHOR_EVERY_S = 1.0
#: Longest wait before a partition that is broken for people to mend is tried again, seconds.
BROKEN_CAP_S = 15.0


class BrokenKey(Red10Error):
    """A key holds what Red10 did not write; counted when the script said so."""


class ComputeFailed(Red10Error):
    """A batch cannot be computed: the code that the settings name raised, or Red10 has a fault."""


class PartitionTask:
    """The loop of one partition that this worker holds the lease of.

    Attributes:
        keys: the partition's keys.
        token: of the lease.
        progress: monotonic time of the loop's last step; the lease is renewed only while it moves.
        scorer: `None` while the partition is being taken over.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        keys: PartitionKeys,
        token: str,
        spec: Spec,
        committer: Committer,
        channel: WorkChannel,
        find_release: FindRelease,
        metrics: Metrics,
        *,
        batch_ticks: int,
        batch_outputs: int,
        batch_s: float,
        block_ms: int,
        start_anew: bool = False,
    ) -> None:
        self.keys = keys
        self.token = token
        self.progress = time.monotonic()
        self.scorer: Scorer | None = None
        self._client = client
        self._spec = spec
        self._committer = committer
        self._channel = channel
        self._find_release = find_release
        self._metrics = metrics
        self._most = batch_ticks
        self._count = min(batch_ticks, 200)
        self._batch_outputs = batch_outputs
        self._batch_s = batch_s
        self._block_ms = block_ms
        self._start_anew = start_anew
        self._stopping = asyncio.Event()
        self._announced = ""
        self._said = ""

    def stop(self) -> None:
        """Ask the loop to end after the batch under way."""
        self._stopping.set()

    async def run(self) -> None:
        """Own the partition until told to stop, or until the lease turns out to be lost."""
        backoff = Backoff(cap=BROKEN_CAP_S)
        while not self._stopping.is_set():
            self.scorer, self._announced = None, ""
            try:
                recovered = await recover(
                    self._client, self.keys, self.token, self._spec, self._find_release, start_anew=self._start_anew
                )
                self._start_anew = False
                if recovered.found is not Resume.GO_ON:
                    self._metrics.input_changed(self.keys.ticks, recovered.found.name.lower())
                self.scorer = recovered.scorer
                answer = await self._consume(recovered.scorer, backoff)
            except Fenced:
                return
            except (RedisError, OSError, Red10Error) as error:
                await self._wait_out(error, backoff)
                continue
            if answer is Answer.FENCED:
                log.warning("%s: the lease went to somebody else", self.keys.lease)
                return

    async def announce(self, release: LoadedRelease) -> None:
        """Post a `release` entry, unless this release is in force or was already announced."""
        scorer = self.scorer
        if scorer is None or not release.id or release.id in (scorer.state.release, self._announced):
            return
        with contextlib.suppress(RedisError, OSError):  # the next call tries again; twice the same entry does no harm
            await self._client.xadd(self.keys.ticks, cast(dict[Any, Any], release_fields(release.id)))
            self._announced = release.id

    async def _consume(self, scorer: Scorer, backoff: Backoff) -> Answer:
        """Read and process until the answer is not to go on."""
        looked = time.monotonic()
        while not self._stopping.is_set():
            self.progress = time.monotonic()
            entries = await self._read(scorer.state.checkpoint)
            if entries:
                answer = cast(Answer, await self._channel.do(partial(self.process, scorer, entries)))
                if answer not in (Answer.OK, Answer.DUP):
                    return answer
                self._said = ""
                backoff.reset()
            elif time.monotonic() - looked >= ANCHOR_EVERY_S:
                looked = time.monotonic()
                found = await look(self._client, self.keys, scorer.state.checkpoint)
                if scorer.state.anchor == scorer.state.checkpoint and (
                    resume(scorer.state.checkpoint, found) is not Resume.GO_ON
                ):
                    return Answer.GAP
        return Answer.OK

    async def _read(self, after: StreamID) -> list[RawEntry]:
        """The next entries, or none if the wait ended or the loop was told to stop."""
        streams: dict[Any, Any] = {self.keys.ticks: str(after)}
        read: asyncio.Future[Any] = asyncio.ensure_future(
            self._client.xread(streams, count=self._count, block=self._block_ms)
        )
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({read, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not read.done():
                return []
            reply = read.result()
        finally:
            for task in (read, stopped):
                task.cancel()
            await asyncio.gather(read, stopped, return_exceptions=True)
        return reply[0][1] if reply else []

    async def process(self, scorer: Scorer, entries: list[RawEntry]) -> Answer:
        """Compute and commit one batch. Called by the agent."""
        began = time.perf_counter()
        decoded = decode(entries)
        releases: dict[str, LoadedRelease] = {}
        for release in releases_in(decoded):
            found = await self._find_release(release)
            if found is not None:
                releases[release] = found
        state = scorer.state
        after, counter = state.anchor, state.counter
        try:
            computed = scorer.compute(decoded, releases)
        # A user's feature set or policy may raise anything; the batch is tried again after a reload, and said.
        except Exception as error:
            raise ComputeFailed(
                f"computing the batch from {entries[0][0].decode()} to {entries[-1][0].decode()} raised "
                f"{type(error).__name__}: {error}; nothing of it was written, it is tried again"
            ) from error
        taken = time.perf_counter() - began
        self._adapt(taken, len(entries), len(computed.outputs))
        commit = Commit(
            counter, after, computed.last, state.entries, computed.trim, computed.state, computed.outputs
        )  # fmt: skip
        began = time.perf_counter()
        answer, detail = await self._committer.commit(self.token, commit, on_wait=self._waiting)
        self._metrics.committed(self.keys.ticks, answer.value, time.perf_counter() - began)
        if answer in (Answer.OK, Answer.DUP):
            state.counter += 1
            self._metrics.batch(self.keys.ticks, computed.counts, taken)
        elif answer is Answer.BROKEN:
            raise BrokenKey(
                f"{detail} is of a type that Red10 does not write, or its ids are exhausted: "
                "move the key away (RENAME), then the partition goes on by itself"
            )
        return answer

    def _adapt(self, taken: float, entries: int, outputs: int) -> None:
        """Halve the next batch when this one was too long or too full, else let it grow."""
        if taken > self._batch_s or outputs > self._batch_outputs:
            self._count = max(1, entries // 2)
        elif entries >= self._count:
            self._count = min(self._most, self._count * 2)

    def _waiting(self, code: str, detail: str) -> None:
        self.progress = time.monotonic()
        self._metrics.committed(self.keys.ticks, "WAIT", None)
        self._say(code, f"{self.keys.ticks}: waiting to commit: {detail}")

    async def _wait_out(self, error: Exception, backoff: Backoff) -> None:
        """Say once what is wrong, then wait a little, or until told to stop."""
        self.progress = time.monotonic()
        code = error_code(error)
        if classify(error) is Verdict.FAIL and not isinstance(error, RedisUnavailable | RedisRefused | BrokenKey):
            self._metrics.committed(self.keys.ticks, "BROKEN", None)
        self._say(code + str(error), f"{self.keys.ticks}: {error}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), backoff.next())

    def _say(self, what: str, message: str) -> None:
        if what != self._said:
            self._said = what
            log.error("%s", message)

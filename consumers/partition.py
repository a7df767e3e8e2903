"""One owned partition: read, compute, commit, until the lease is lost or given back.

`PartitionTask.run` is the partition's loop. It reads from the checkpoint, cuts what it read into batches (a block may
be cut in its midst), has the agent carry out each (`process`), and acts on the answer: go on, reload, or end. It never
raises: lost connections and refusals are waited out; a batch that cannot be computed is tried in other ways
(`consumers.poison`); a broken key or a fault is said once, counted, and tried again with a back-off, because only
people can mend those. Told to stop, it ends at once if it waits (for input, the model store, or a Redis that does not
take the commit), else after the batch under way.

The agent is shared by all partitions of the process, so nothing waits there but for the streams Redis.

If the process dies anywhere in here, the next owner reads the same entries from the same checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

import redis.asyncio
from redis.exceptions import RedisError

from consumers.memo import Memo
from consumers.metrics import Metrics
from consumers.recovery import BrokenKey, Fenced, FindRelease, naming, recover
from consumers.scorer import Computed, Scorer, releases_in
from consumers.spec import Spec
from consumers.state import PartitionState
from modelstore.loaded import LoadedRelease
from streams.channel import WorkChannel
from streams.clients import Backoff, Verdict, classify, error_code, lost_reply
from streams.codec import decode
from streams.commit import Answer, Commit, Committer
from streams.decoded import Cut, Decoded, RawEntry
from streams.errors import Red10Error, RedisRefused, RedisUnavailable
from streams.ids import ZERO, StreamID
from streams.keys import PartitionKeys
from streams.publish import release_fields
from streams.resume import Resume, look, restore_group, resume

log = logging.getLogger("red10.partition")

T = TypeVar("T")

#: Tries in which a lost connection is no news: by then it is known whether all partitions have lost theirs.
LOST_TRIES = 6
#: Seconds between two looks at what is stored while there is nothing to read.
LOOK_EVERY_S = 1.0
#: Seconds between two signs of life while waiting.
ALIVE_EVERY_S = 0.1
#: Most arguments of one commit: at 1,048,576 Redis 6.2 drops the connection, each time again.
MOST_ARGUMENTS = 800_000
#: Most characters of dead letters in one commit: Redis holds the whole call in memory, at 1 GB it drops the connection.
MOST_DEAD = 64_000_000
#: Seconds between two announcements of the same release.
ANNOUNCE_EVERY_S = 5.0
#: Longest wait before a partition that is broken for people to mend is tried again, seconds.
BROKEN_CAP_S = 15.0
#: No release was announced: its id, its entry, when.
_NOTHING = ("", ZERO, 0.0)


class TooLarge(Red10Error):
    """A batch has more outputs than one commit can carry; the next one is smaller."""


class ComputeFailed(Red10Error):
    """A batch cannot be computed: the code that the settings name raised, or Red10 has a fault.

    Attributes:
        wait: whether the same is to be tried again, so that something has to change first.
    """

    def __init__(self, message: str, *, wait: bool) -> None:
        super().__init__(message)
        self.wait = wait


class _Stopped(Exception):
    """The loop was told to stop while it waited."""


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
        memo: Memo,
        redis_away: Callable[[], bool] = lambda: False,
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
        self._memo = memo
        self._batch_outputs = batch_outputs
        self._batch_s = batch_s
        self._block_ms = block_ms
        self._redis_away = redis_away
        self._start_anew = start_anew
        self._stopping = asyncio.Event()
        self._announced = _NOTHING
        self._said = ""
        self._missing = ""
        self._lost = 0

    def stop(self) -> None:
        """Ask the loop to end, after the batch under way if there is one."""
        self._stopping.set()

    async def run(self) -> None:
        """Own the partition until told to stop, or until the lease turns out to be lost."""
        backoff = Backoff(cap=BROKEN_CAP_S)
        while not self._stopping.is_set():
            self.scorer = None
            try:
                answer = await self._consume(await self._recover(), backoff)
            except (Fenced, _Stopped):
                return
            # Only its owner can bring a partition forward: whatever it is, it is said, and tried again.
            except Exception as error:
                await self._wait_out(error, backoff)
                continue
            if answer is Answer.FENCED:
                log.warning("%s: the lease went to somebody else", self.keys.lease)
                return
            if answer is Answer.RESET:
                log.warning(
                    "%s is not what this worker wrote last, as after a Redis that lost it: reading it again",
                    self.keys.state,
                )

    async def announce(self, release: LoadedRelease) -> None:
        """Post a `release` entry, unless this release is in force or its entry is still to be read.

        One that was read and is not in force was followed by an older one, of a worker that was paused meanwhile.
        """
        scorer, now = self.scorer, time.monotonic()
        if scorer is None or release.id in ("", scorer.state.release):
            return
        known, entry, at = self._announced
        if known == release.id and (entry > scorer.state.checkpoint or now - at < ANNOUNCE_EVERY_S):
            return
        with contextlib.suppress(RedisError, OSError):  # the next call tries again; twice the same entry does no harm
            posted = await self._client.xadd(self.keys.ticks, cast(dict[Any, Any], release_fields(release.id)))
            self._announced = (release.id, StreamID.parse(posted), now)

    async def _recover(self) -> Scorer:
        recovered = await self._unless_stopped(
            recover(self._client, self.keys, self.token, self._spec, self._find_release, start_anew=self._start_anew)
        )
        self._start_anew = False
        if recovered.found is not Resume.GO_ON:
            self._metrics.input_changed(self.keys.ticks, recovered.found.name.lower())
        if recovered.found is not Resume.GO_ON or recovered.scorer.state.checkpoint == ZERO:
            self._announced = _NOTHING  # the announcement may be among what was lost
        self.scorer = recovered.scorer
        return recovered.scorer

    async def _consume(self, scorer: Scorer, backoff: Backoff) -> Answer:
        """Read and process until the answer is not to go on."""
        looked = time.monotonic()
        while not self._stopping.is_set():
            self.progress = time.monotonic()
            entries = await self._unless_stopped(self._read(scorer.state.checkpoint))
            if entries:
                answer = await self._process_all(scorer, decode(entries), backoff)
                if answer not in (Answer.OK, Answer.DUP):
                    return answer
            elif time.monotonic() - looked >= LOOK_EVERY_S:
                looked = time.monotonic()
                changed = await self._unless_stopped(self._look(scorer.state))
                if changed is not None:
                    return changed
        return Answer.OK

    async def _process_all(self, scorer: Scorer, decoded: Decoded, backoff: Backoff) -> Answer:
        """Carry out what was read, batch by batch, until the answer is not to go on."""
        cut, within = decoded.begin, scorer.state.within
        if within is not None:
            if decoded.id(0) != within[0]:
                return Answer.GAP
            cut = Cut(0, within[1])
        self._memo.read(len(decoded.entries), decoded.units)
        while cut < decoded.end and not self._stopping.is_set():
            self.progress = time.monotonic()
            window = decoded.window(cut, min(self._memo.units, self._most))
            releases = await self._releases(window)
            answer = cast(Answer, await self._channel.do(partial(self.process, scorer, window, releases)))
            if answer not in (Answer.OK, Answer.DUP):
                return answer
            self._said, self._lost = "", 0
            backoff.reset()
            cut = window.end
        return Answer.OK

    async def _look(self, state: PartitionState) -> Answer | None:
        """What the next commit would find changed; without this, a quiet partition would never find out."""
        stored = await cast(Awaitable[bytes | None], self._client.hget(self.keys.state, "counter"))
        if int(stored or 0) != state.counter:
            return Answer.RESET
        within = None if state.within is None else state.within[0]
        seen = await look(self._client, self.keys, state.checkpoint, within)
        if state.counter and seen.last is not None and not seen.group:
            log.error("%s: the group of the scorers is gone, making it anew", self.keys.ticks)
            await restore_group(self._client, self.keys, state.checkpoint, state.entries, modern=self._committer.modern)
        found = resume(state.tip, seen)
        # A gap is no news while the anchor is known to be gone.
        if found is Resume.ANEW or (found is Resume.GAP and state.anchor == state.checkpoint):
            return Answer.GAP
        consumed = seen.first is not None and seen.first < state.checkpoint == state.anchor
        return await self._make_room(state) if consumed and self._committer.short else None

    async def _make_room(self, state: PartitionState) -> Answer | None:
        """Drop consumed input while Redis is short of memory; what the commit found, unless that is not to go on.

        Batches do so in passing. But publishers hold back now, so that there may never be another batch here.
        """
        commit = Commit(
            state.counter, state.anchor, state.tip, state.checkpoint, state.entries, state.checkpoint, {}, []
        )  # fmt: skip
        answer = await self._send(commit)
        if answer not in (Answer.OK, Answer.DUP):
            return answer
        state.counter += 1
        return None

    async def _send(self, commit: Commit) -> Answer:
        """What the commit found.

        Raises:
            BrokenKey: a key can take nothing.
            RedisError: as the commit raises it.
        """
        answer, detail = await self._committer.commit(
            self.token, commit, on_wait=self._waiting, sleep=self._pause, give_up=self._stopping.is_set
        )
        if answer is Answer.BROKEN:
            raise BrokenKey(detail)
        if answer is Answer.OK and detail != self._missing:
            self._missing = detail
            if detail:
                log.warning("%s: nothing is dropped before the required group %s is made", self.keys.ticks, detail)
        return answer

    async def _read(self, after: StreamID) -> list[RawEntry]:
        """The next entries, or none if there were none for `block_ms`."""
        streams: dict[Any, Any] = {self.keys.ticks: str(after)}
        with naming(self.keys.ticks):
            reply: Any = await self._client.xread(
                streams, count=min(self._memo.entries, self._most), block=self._block_ms
            )
        return reply[0][1] if reply else []

    async def _releases(self, decoded: Decoded) -> dict[str, LoadedRelease]:
        """The releases that a batch switches to, as far as the model store has them."""
        found: dict[str, LoadedRelease] = {}
        for release in releases_in(decoded):
            loaded = await self._unless_stopped(self._find_release(release))
            if loaded is not None:
                found[release] = loaded
        return found

    async def _unless_stopped(self, wait: Awaitable[T]) -> T:
        """Wait, with signs of life: this ends by itself, unlike a loop that is stuck.

        Raises:
            _Stopped: told to stop meanwhile; the wait was cancelled.
        """
        awaited: asyncio.Future[T] = asyncio.ensure_future(wait)
        stopped = asyncio.ensure_future(self._stopping.wait())
        either: set[asyncio.Future[Any]] = {awaited, stopped}
        try:
            while not awaited.done():
                await asyncio.wait(either, timeout=ALIVE_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                self.progress = time.monotonic()
                if stopped.done() and not awaited.done():
                    raise _Stopped
            return awaited.result()
        finally:
            for future in either:
                future.cancel()
            await asyncio.gather(*either, return_exceptions=True)

    async def process(self, scorer: Scorer, decoded: Decoded, releases: dict[str, LoadedRelease]) -> Answer:
        """Compute and commit one batch. Called by the agent."""
        began = time.perf_counter()
        state, suspicion = scorer.state, self._memo.suspicion
        after, counter, units = state.anchor, state.counter, decoded.units
        first = (decoded.id(decoded.first.position), decoded.first.tick)
        if suspicion.blames(first):
            decoded = decoded.set_aside("poison", f"nothing can be computed with it: {suspicion.why}")
        try:
            computed = scorer.compute(decoded, releases, careful=suspicion.careful > 0)
        # A user's feature set or policy may raise anything.
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            another = suspicion.failed(units, first, why, passing=isinstance(error, MemoryError))
            raise ComputeFailed(
                f"computing the batch from {decoded.id(decoded.begin.position)} on raised {why} ({_where(error)}); "
                "nothing of it was written, it is tried again",
                wait=not another,
            ) from error
        taken = time.perf_counter() - began
        dead = sum(len(word) for key, fields in computed.outputs if key == self.keys.dead for word in fields)
        too_much = taken > self._batch_s or len(computed.outputs) > self._batch_outputs or dead > MOST_DEAD // 4
        self._memo.took(units, too_much=too_much, most=self._most)
        if units > 1 and (_arguments(computed) > MOST_ARGUMENTS or dead > MOST_DEAD):
            self._memo.ticks = max(1, units // 4)
            raise TooLarge(
                f"{units} ticks cause {len(computed.outputs)} outputs, too many for one commit: taking fewer"
            )
        commit = Commit(
            counter, after, computed.last, computed.checkpoint, state.entries, computed.trim, computed.state,
            computed.outputs, computed.passed,
        )  # fmt: skip
        began = time.perf_counter()
        answer = await self._send(commit)
        self._metrics.committed(self.keys.ticks, answer.value, time.perf_counter() - began)
        if answer in (Answer.OK, Answer.DUP):
            state.counter += 1
            self._metrics.batch(self.keys.ticks, computed.counts, taken)
            suspicion.passed(units, trouble=computed.counts["dead:poison"] > 0)
        return answer

    def _waiting(self, code: str, detail: str) -> None:
        self._metrics.committed(self.keys.ticks, "WAIT", None)
        self._say(code, f"{self.keys.ticks}: waiting to commit: {detail}")

    async def _wait_out(self, error: Exception, backoff: Backoff) -> None:
        """Say once what is wrong, then wait a little, or until told to stop."""
        code = error_code(error)
        if classify(error) is Verdict.FAIL and not isinstance(error, RedisUnavailable | RedisRefused | TooLarge):
            self._metrics.committed(self.keys.ticks, "BROKEN", None)
        self._lost = self._lost + 1 if lost_reply(error) else 0
        if 0 < self._lost < LOST_TRIES or (self._lost and self._redis_away()):
            log.info("%s: %s", self.keys.ticks, error)  # the owner of all partitions says it once for all
        else:
            expected = isinstance(error, RedisError | OSError | Red10Error)
            self._say(code + str(error), f"{self.keys.ticks}: {error}", None if expected else error)
        if isinstance(error, ComputeFailed) and not error.wait:
            backoff.reset()
            return
        await self._pause(backoff.next())

    async def _pause(self, seconds: float) -> None:
        """Wait a little, or until told to stop."""
        with contextlib.suppress(_Stopped):
            await self._unless_stopped(asyncio.sleep(seconds))

    def _say(self, what: str, message: str, fault: Exception | None = None) -> None:
        if what != self._said:
            self._said = what
            log.error("%s", message, exc_info=fault)


def _arguments(computed: Computed) -> int:
    """About how many arguments the commit has."""
    return sum(len(fields) + 2 for _, fields in computed.outputs) + 2 * len(computed.state)


def _where(error: Exception) -> str:
    """File and line that raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"

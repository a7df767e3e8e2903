"""Appending to partitions: in order, all or nothing per partition, and once, whatever gets lost on the way.

An exchange sends one group of entries per partition in one round trip. A group is appended by one script call
(`publish.lua`), which also notes how far the publisher's sequence has come (`streams.numbering`), so that

- a refusal (out of memory, disk full, replica, loading) meets the group's first XADD and so the whole group: it is
  tried again later without its entries changing places;
- a lost reply is cleared up by sending the same group again: the log answers `DUP` if it has it;
- a key that can take nothing (`BROKEN`: of another type, or its ids are used up) ends it at once, with its name;
- a log that lost what it had acknowledged (deleted, restored from an older state) says so, `GAP` or `RESET`. That is
  counted and logged, and publishing goes on; but where the sequence can be sent again, `PublishGap` says so.

`append` decides and does no I/O: a generator that yields what to do (`Exchange`, `Probe`, `Pause`) and is sent what
came of it; `streams.exchange` does it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any

from pydantic import SecretStr
from redis.exceptions import AuthenticationError

from streams.clients import TRANSIENT, Backoff, error_code, explain
from streams.errors import BrokenKey, Red10Error, RedisRefused
from streams.exchange import Exchange, Outcome, Steps
from streams.ids import StreamID
from streams.numbering import EXPIRY_MS, Numbering, Place
from streams.publish import Blocks, Group
from streams.room import Pause, Room

log = logging.getLogger("red10.publish")

_SCRIPT = files("streams").joinpath("publish.lua").read_bytes()
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()


class PublishError(Red10Error):
    """Publishing stopped before its end.

    Attributes:
        cause: why.
        accepted: how many ticks are certainly in the log.
        unsure: rows (counted from 0, in the caller's order) whose reply was lost: each may be in the log or not.
        out: rows that were tried and are certainly not in the log.
        next_row: the first row that was not tried.
    """

    def __init__(self, cause: Red10Error, accepted: int, unsure: Sequence[int], out: Sequence[int], next_row: int):
        doubt = f" {len(unsure)} more may be in it or not: their reply was lost." if unsure else ""
        super().__init__(
            f"publishing stopped: {str(cause).rstrip('.?')}. {accepted} entries are certainly in the log.{doubt}"
        )
        self.cause = cause
        self.accepted = accepted
        self.unsure = tuple(unsure)
        self.out = tuple(out)
        self.next_row = next_row

    def shifted(self, rows: int) -> PublishError:
        """The same, for a caller who had published `rows` ticks before the call that failed."""
        unsure, out = [row + rows for row in self.unsure], [row + rows for row in self.out]
        return PublishError(self.cause, self.accepted + rows, unsure, out, self.next_row + rows)


class PublishGap(PublishError):
    """The log lost ticks of a sequence that can be sent again, or a call before left some in doubt: begin it again.

    What the log has is passed over then.
    """

    def shifted(self, rows: int) -> PublishGap:
        """As it is: the rows are to be sent again anyway."""
        return self


class _Lost(Exception):
    """The log has less of the sequence than it had acknowledged."""

    def __init__(self, key: str, ticks: int) -> None:
        super().__init__(key, ticks)
        self.key = key
        self.ticks = ticks


class _Appending:
    """One call of `append`: groups under way, and what has become of the others.

    Attributes:
        pending: groups that are still to be appended.
        doubt: streams whose group may have been appended by a call without reply; while one is under way, all.
        accepted: ticks that are in the log.
        last: the last entry of each stream.
    """

    def __init__(self, groups: Iterable[Group], numbering: Numbering, blocks: Blocks, before: int) -> None:
        self.numbering = numbering
        self.blocks: Blocks = blocks
        self.accepted = before
        self.last: dict[str, StreamID] = {}
        self.doubt: set[str] = set()
        self._settled: set[str] = set()
        self.pending: list[Group] = []
        for group in groups:
            place = numbering.place(group.keys)
            known = min(group.count, max(0, place.taken - place.sent))
            numbering.passed_over += known
            self._keep(self._advanced(group, place, known))

    def _keep(self, group: Group | None) -> None:
        if group is not None:
            self.pending.append(group)

    def _advanced(self, group: Group, place: Place, ticks: int) -> Group | None:
        """Note that the log has the first ticks of a group; what is left of it."""
        place.sent += ticks
        self.accepted += ticks
        if group.count == 0 or ticks < group.count:
            return group.without(ticks) if ticks else group
        if place.last:
            self.last[group.keys.ticks] = StreamID.parse(place.last)
        return None

    def payload(self) -> bytes:
        """All pending groups as commands, about to be sent."""
        self._settled = {group.keys.ticks for group in self.pending} - self.doubt
        self.doubt |= self._settled
        return b"".join(self._command(group) for group in self.pending)

    def _command(self, group: Group) -> bytes:
        place, packed = self.numbering.place(group.keys), group.packed(self.blocks)
        known = self.numbering.script_known
        # A clock entry must not count what is in doubt; of a place in doubt nothing else is sent.
        base = place.taken if place.doubtful else place.sent
        words = (
            *((b"EVALSHA", _SHA) if known else (b"EVAL", _SCRIPT)), b"2",
            group.keys.ticks.encode(), group.keys.publishers.encode(),
            self.numbering.name.encode(), place.last.encode(), b"%d" % base, b"%d" % group.count,
            b"%d" % EXPIRY_MS,
        )  # fmt: skip
        parts = [b"*%d\r\n" % (len(words) + packed.arguments)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        return b"".join((*parts, packed.data))

    def take(self, outcome: Outcome) -> tuple[list[Exception], bool]:
        """Note what came of an exchange; the errors, and whether anything was cleared up."""
        answered = self.pending[: len(outcome.replies)]
        silent = self.pending[len(outcome.replies) :]
        self.pending = []
        errors: list[Exception] = []
        for group, reply in zip(answered, outcome.replies, strict=True):
            error = _error_of(reply)
            if error is not None:
                # A refusal says nothing of an earlier call without reply.
                self.doubt -= self._settled & {group.keys.ticks}
                errors.append(error)
                self.pending.append(group)
                continue
            self.doubt.discard(group.keys.ticks)
            self._keep(self._answered(group, *reply))
        if not outcome.sent:
            self.doubt -= self._settled
        elif silent:
            self.numbering.unsure = True
        self.pending += silent
        return errors, len(errors) < len(answered)

    def _answered(self, group: Group, word: bytes, ticks: bytes, entry: bytes) -> Group | None:
        """Act on an answer of the script; what is left of the group."""
        numbering, place = self.numbering, self.numbering.place(group.keys)
        numbering.script_known = True
        taken = int(ticks)
        if word == b"OK":
            place.taken, place.last = taken, entry.decode()
            if group.count == 0:
                self.last[group.keys.ticks] = StreamID.parse(entry)
                return None
            return self._advanced(group, place, group.count)
        if word == b"DUP":
            place.taken, place.last = taken, entry.decode()
            # No call of this publisher's had gone without a reply here, so these ticks are somebody else's.
            if not numbering.repeats and group.keys.ticks in self._settled:
                if not numbering.rivals:
                    log.error(
                        "%s: another publisher uses the name %s: numbering goes on behind it",
                        group.keys.ticks, numbering.name,
                    )  # fmt: skip
                numbering.rivals += 1
                place.sent = taken
                return group
            return self._advanced(group, place, min(group.count, taken - place.sent))
        if word == b"GAP":
            numbering.gaps += 1
            if numbering.repeats:
                raise _Lost(group.keys.ticks, place.sent - taken)
            numbering.lost += place.sent - taken
            log.error(
                "%s lost %d ticks of publisher %s that it had taken, as after a restore of an older state: going on",
                group.keys.ticks, place.sent - taken, numbering.name,
            )  # fmt: skip
        else:
            numbering.resets += 1
            log.error(
                "%s knows nothing of what publisher %s sent before, as after a deletion: going on",
                group.keys.ticks, numbering.name,
            )  # fmt: skip
        place.taken, place.last = place.sent, ""
        return group

    def rows(self, *, doubt: bool) -> list[int]:
        """Rows of the groups under way that are in doubt, or are not."""
        chosen = [group for group in self.pending if (group.keys.ticks in self.doubt) == doubt]
        return sorted(row for group in chosen for row in group.rows.tolist())

    def abandon(self) -> None:
        """Leave what is in doubt behind: what comes next must not be taken for it."""
        for group in self.pending:
            if group.keys.ticks in self.doubt:
                self.numbering.unsure = True
                place = self.numbering.place(group.keys)
                place.sent += group.count
                place.last = ""
                place.doubtful = self.numbering.repeats and (place.doubtful or group.count > 0)


def append(
    groups: Sequence[Group],
    numbering: Numbering,
    url: SecretStr | str,
    *,
    patience_s: float,
    blocks: Blocks = "auto",
    room: Room | None = None,
    before: int = 0,
    now: Callable[[], float] = time.monotonic,
) -> Steps:
    """Append groups of entries, each for another partition; return the id of the last entry of each stream.

    Args:
        groups: what to append; at most one group per partition.
        numbering: of the publisher; moves on with what is appended.
        url: the server, for messages.
        patience_s: how long a server may refuse or be away, without any progress, before this gives up.
        blocks: whether ticks share entries.
        room: whether there is room in Redis; left out, nobody asks.
        before: how many rows of the same call were accepted earlier, for messages.
        now: a monotonic clock, seconds.

    Raises:
        PublishGap: the log lost ticks of a sequence that can be sent again, or such were left in doubt before.
        PublishError: the patience ended, there is no room, or the server refuses for good. Rows whose reply was lost
            last are in doubt; if they are published once more, they may stand twice.
    """
    next_row = max((int(group.rows[-1]) for group in groups), default=-1) + 1
    doubtful = [group.keys.ticks for group in groups if group.count and numbering.place(group.keys).doubtful]
    if doubtful:
        rows = sorted(row for group in groups for row in group.rows.tolist())
        raise PublishGap(_in_doubt(doubtful[0], numbering), before, [], rows, next_row)
    work = _Appending(groups, numbering, blocks, before)
    backoff = Backoff()
    give_up = now() + patience_s
    said = False
    try:
        while work.pending:
            if room is not None:
                waited = room.throttled_s
                try:
                    yield from room.wait()
                except RedisRefused as full:
                    raise _stopped(full, work, next_row) from None
                # Patience is for a Redis that refuses or is away, not for one whose memory is full.
                give_up += room.throttled_s - waited
            payload = work.payload()
            outcome: Outcome = yield Exchange(payload, len(work.pending))
            try:
                errors, progress = work.take(outcome)
            except _Lost as lost:
                for place in numbering.places.values():  # the other answers of this exchange were not looked at
                    place.doubtful = True
                raise _gap(lost.key, lost.ticks, work, next_row) from None
            if room is not None:
                room.sent(len(payload))
            if progress:
                give_up = now() + patience_s
                backoff.reset()
            known = [found for found in errors if error_code(found) != "NOSCRIPT"]
            numbering.script_known = numbering.script_known and len(known) == len(errors)
            # A refusal for good comes first: no patience helps.
            known.sort(key=lambda found: error_code(found) in TRANSIENT)
            error = known[0] if known else outcome.error
            if error is None:
                continue
            if not _passes(error, outcome) or now() >= give_up:
                cause = error if isinstance(error, Red10Error) else explain(error, url)
                raise _stopped(cause, work, next_row) from error
            if not said:
                log.warning("%s Trying again for %.0f s.", explain(error, url), patience_s)
                said = True
            yield Pause(min(backoff.next(), max(0.0, give_up - now())))
    finally:
        work.abandon()
    return work.last


def _in_doubt(key: str, numbering: Numbering) -> Red10Error:
    return Red10Error(
        f"{key}: ticks of publisher {numbering.name} were left in doubt before, and where its sequence goes on is not "
        "known: begin it again (`rewind`), what the log has is passed over"
    )


def _gap(key: str, ticks: int, work: _Appending, next_row: int) -> PublishGap:
    cause = Red10Error(
        f"{key} lost {ticks} ticks of publisher {work.numbering.name} that it had taken, as after a restore of an "
        "older state: begin the sequence again (`rewind`), what the log has is passed over"
    )
    return PublishGap(cause, work.accepted, work.rows(doubt=True), work.rows(doubt=False), next_row)


def _stopped(cause: Red10Error, work: _Appending, next_row: int) -> PublishError:
    return PublishError(cause, work.accepted, work.rows(doubt=True), work.rows(doubt=False), next_row)


def _error_of(reply: Any) -> Exception | None:
    """A refusal: the server's, or the script's, which found a key that can take nothing."""
    if isinstance(reply, Exception):
        return reply
    return BrokenKey(reply[1].decode(), reply[2].decode()) if reply[0] == b"BROKEN" else None


def _passes(error: Exception, outcome: Outcome) -> bool:
    """Whether trying again may help: the server refuses for now, or does not answer."""
    if isinstance(error, AuthenticationError):
        return False
    return error_code(error) in TRANSIENT or error is outcome.error

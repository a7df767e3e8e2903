"""The checker: decides from what a run left behind whether every tick was counted exactly once and in order. Pure.

It knows what the publishers said (their feeds follow from a seed), what went into the log (the archive), and what came
out, and trusts nothing in between:

1. every tick of every feed is in the log once, in its feed's order per symbol;
2. bars, open bars and dead letters, recomputed slowly from the archive, are what stands there;
3. every output, recomputed by an undisturbed replay, is there once, in order per series, and no other is; the state is
   the one in which the replay ends, so that whatever comes next would come out right as well;
4. no commit landed after another owner had taken the lease, and no owner came back between another's commits;
5. every training request is there once and has one result, and every version exists once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson

from tests.chaos.decoding import Tick, items
from tests.chaos.evidence import Evidence, Partition, Row, Said
from tests.chaos.feed import Feed
from tests.chaos.pipeline import INTERVALS_NS, LATENESS_NS, MAX_AHEAD_NS
from tests.chaos.replay import replay
from tests.chaos.slow_bars import SlowPartition, source

_LANDED = ("OK", "DUP")


@dataclass
class Verdict:
    """What was found.

    Attributes:
        inputs: ticks in the log.
        outputs: output entries that were checked.
        lost, duplicated, reordered, wrong: faults; all 0 if all is well.
        in_blocks: ticks that came behind others in one entry.
        found: the faults in words, the first of each kind.
        kinds: outputs by kind of stream.
    """

    inputs: int = 0
    outputs: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    wrong: int = 0
    in_blocks: int = 0
    found: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    _said: Counter[str] = field(default_factory=Counter, repr=False)

    @property
    def good(self) -> bool:
        return not (self.lost or self.duplicated or self.reordered or self.wrong)

    def blame(self, kind: str, what: str, count: int = 1) -> None:
        """Count a fault and say it, but not too often."""
        if count <= 0:
            return
        setattr(self, kind, getattr(self, kind) + count)
        self._said[kind] += 1
        if self._said[kind] <= 10:
            self.found.append(f"{kind}: {what}")


def check(evidence: Evidence) -> Verdict:
    """Judge a run."""
    verdict = Verdict()
    for complaint in evidence.complaints:
        verdict.blame("wrong", complaint)
    _check_input(evidence, verdict)
    for at, partition in evidence.partitions.items():
        archive = evidence.archive[at]
        slow = SlowPartition(INTERVALS_NS, LATENESS_NS, MAX_AHEAD_NS)
        for entry, words in archive:
            slow.take(entry, words)
        verdict.inputs += slow.ticks
        _check_bars(f"partition {at}", slow, partition, verdict)
        replayed = replay(evidence.spec, evidence.tenant, at, archive, evidence.releases)
        _check_state(f"partition {at}", replayed.state, partition.state, verdict)
        expected = replayed.outputs
        for stream in sorted(set(expected) | set(partition.outputs)):
            found = partition.outputs.get(stream, [])
            verdict.outputs += len(found)
            verdict.kinds[stream.partition(":")[0]] += len(found)
            _compare(f"{at}:{stream}", expected.get(stream, []), found, verdict)
    _check_owners(evidence, verdict)
    _check_training(evidence, verdict)
    return verdict


# The input


def _check_input(evidence: Evidence, verdict: Verdict) -> None:
    """Whether the log has each feed's ticks, once and in order."""
    if evidence.feeds is None:
        return
    came: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for entries in evidence.archive.values():
        for _, words in entries:
            for item in items(words):
                if isinstance(item, Tick):
                    verdict.in_blocks += item.index > 0
                    came[item.symbol].append((item.ts, item.price, item.size))
    for feed, said in evidence.feeds:
        _check_feed(feed, said, came, verdict)
    for symbol, rows in came.items():
        verdict.blame("wrong", f"{symbol}: {len(rows)} ticks that nobody published", len(rows))


def _check_feed(feed: Feed, said: Said, came: dict[str, list[tuple[int, float, float]]], verdict: Verdict) -> None:
    if not said.done:
        verdict.blame("lost", f"{feed.name} did not come to its end: {said.taken} of {feed.count} ticks were taken")
    verdict.blame("wrong", f"{feed.name} was told of lost acknowledged ticks", said.resets + said.gaps)
    sent: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for number, tick in enumerate(feed.ticks()):
        if number < (feed.count if said.done else said.taken):
            sent[tick.symbol].append((tick.ts, tick.price, tick.size))
    for symbol in feed.symbols:
        found, wanted = came.pop(symbol, []), sent[symbol]
        if found == wanted:
            continue
        place = {ts: at for at, (ts, _, _) in enumerate(wanted)}
        often = Counter(ts for ts, _, _ in found)
        where = f"{feed.name}, {symbol}"
        lost = [ts for ts in place if ts not in often]
        verdict.blame("lost", f"{where}: ticks are not in the log, the first with ts {lost[:1]}", len(lost))
        verdict.blame("duplicated", f"{where}: ticks are in the log twice", sum(often.values()) - len(often))
        unknown = [ts for ts in often if ts not in place]
        # Without its end a feed may have more in the log than it knows to be taken.
        if said.done:
            verdict.blame("wrong", f"{where}: ticks in the log were never published: {unknown[:3]}", len(unknown))
        order = [place[ts] for ts in dict.fromkeys(ts for ts, _, _ in found) if ts in place]
        verdict.blame("reordered", f"{where}: ticks are in the log in another order", _descents(order))
        values = {ts: rest for ts, *rest in wanted}
        bad = sum(1 for ts, *rest in found if ts in values and values[ts] != rest)
        verdict.blame("wrong", f"{where}: ticks have other values than were published", bad)


def _descents(order: Sequence[int]) -> int:
    return sum(one > other for one, other in pairwise(order))


# The outputs


def _check_bars(where: str, slow: SlowPartition, found: Partition, verdict: Verdict) -> None:
    """Hold bars, open bars and dead letters against the slow recomputation."""
    _check_tiling(where, slow, found, verdict)
    for stream, rows in found.outputs.items():
        if not stream.startswith("bars:"):
            continue
        series = stream.removeprefix("bars:")
        expected = slow.closed.get(series, [])
        plain = [{**_without_ordinals(row)} for row in rows]
        same = [{name: row[name] for name in expected[0]} for row in plain] if expected else plain
        if same != expected:
            first = next((at for at, (a, b) in enumerate(zip(same, expected, strict=False)) if a != b), len(expected))
            verdict.blame("wrong", f"{where}, {stream}: bars are not those of the input, from bar {first} on")
    for series in set(slow.closed) - {stream.removeprefix("bars:") for stream in found.outputs}:
        verdict.blame("lost", f"{where}: {series} has no bars", len(slow.closed[series]))
    open_bars = slow.open_bars()
    stored = _stored_open_bars(found.state)
    for series in sorted(set(open_bars) | set(stored)):
        if open_bars.get(series, []) != stored.get(series, []):
            verdict.blame("wrong", f"{where}, {series}: the state has other open bars than the input")
    dead = [(row["reason"], row["src"].rpartition(":")[0]) for row in found.outputs.get("dead", [])]
    expected_dead = [(reason, source(place)) for reason, place in slow.dead]
    kinds = ("unknown_release", "bad_symbol", "wrong_partition")
    if [letter for letter in dead if letter[0] not in kinds] != expected_dead:
        verdict.blame("wrong", f"{where}: the dead letters are not those of the input")


def _check_tiling(where: str, slow: SlowPartition, found: Partition, verdict: Verdict) -> None:
    """Whether bars and open bars together count every tick that was not set aside, once."""
    counted: Counter[tuple[str, str]] = Counter()
    for stream, rows in found.outputs.items():
        if stream.startswith("bars:"):
            for row in rows:
                counted[stream.removeprefix("bars:"), row["start"]] += int(row["ticks"])
    for series, bars in _stored_open_bars(found.state).items():
        for bar in bars:
            counted[series, bar["start"]] += int(bar["ticks"])
    wanted: Counter[tuple[str, str]] = Counter()
    for recomputed in (slow.closed, slow.open_bars()):
        for series, bars in recomputed.items():
            for bar in bars:
                wanted[series, bar["start"]] += int(bar["ticks"])
    verdict.blame("lost", f"{where}: ticks that no bar counts", (wanted - counted).total())
    verdict.blame("duplicated", f"{where}: ticks counted more often than they came", (counted - wanted).total())


def _without_ordinals(row: Row) -> Row:
    return {
        name: value.rpartition(":")[0] if name in ("src", "first", "last") else value for name, value in row.items()
    }


def _stored_open_bars(state: dict[bytes, bytes]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for name, raw in state.items():
        if not name.startswith(b"s:"):
            continue
        _, per_interval = orjson.loads(raw)
        for interval, (_, _, rows, _) in zip(INTERVALS_NS, per_interval, strict=True):
            for start, opened, high, low, close, volume, ticks, _, _, *places in rows:
                first, last = places[:4], places[4:]
                found.setdefault(f"{name[2:].decode()}:{interval}", []).append(
                    {
                        "start": str(start),
                        "open": repr(opened),
                        "high": repr(high),
                        "low": repr(low),
                        "close": repr(close),
                        "volume": repr(volume),
                        "ticks": str(ticks),
                        "first": source(((first[1], first[2]), first[3]), first[0]),
                        "last": source(((last[1], last[2]), last[3]), last[0]),
                    }
                )
    return found


def _compare(where: str, expected: Sequence[Row], found: Sequence[Row], verdict: Verdict) -> None:
    """Hold one output stream against what the replay puts out."""
    if list(expected) == list(found):
        return
    wanted = {row["src"]: row for row in expected}
    often = Counter(row["src"] for row in found)
    lost = [src for src in wanted if src not in often]
    verdict.blame("lost", f"{where}: outputs are missing, the first from {lost[:1]}", len(lost))
    verdict.blame("duplicated", f"{where}: outputs stand there twice", sum(often.values()) - len(often))
    strange = [src for src in often if src not in wanted]
    verdict.blame("wrong", f"{where}: outputs of no input, such as from {strange[:1]}", len(strange))
    other = [row["src"] for row in found if row["src"] in wanted and row != wanted[row["src"]]]
    verdict.blame("wrong", f"{where}: outputs differ from the replay's, such as from {other[:1]}", len(other))
    place = {src: at for at, src in enumerate(wanted)}
    per_series: dict[str, dict[str, int]] = defaultdict(dict)
    for row in found:
        if row["src"] in place:
            per_series[row.get("series", "")].setdefault(row["src"], place[row["src"]])
    for series, order in per_series.items():
        verdict.blame("reordered", f"{where}: {series} is out of order", _descents(list(order.values())))


def _check_state(where: str, expected: dict[bytes, bytes], found: dict[bytes, bytes], verdict: Verdict) -> None:
    """Hold the stored state against the replay's; how many commits led to it does not matter."""
    free = {b"counter", b"nonce"}
    names = sorted(name for name in {*expected, *found} - free if expected.get(name) != found.get(name))
    verdict.blame("wrong", f"{where}: the state differs from the replay's in {names[:3]}", len(names))


# Owners and training


def _check_owners(evidence: Evidence, verdict: Verdict) -> None:
    """Whether commits of two owners interleave, by the workers' journals."""
    lines: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in evidence.journal:
        if line["tenant"] == evidence.tenant:
            lines[line["partition"]].append(line)
    for at, partition in sorted(lines.items()):
        # Each was taken at some moment between two: only what is certain counts, for a process may be paused there.
        taken = {line["token"]: (line["began"], line["at"]) for line in partition if line["what"] == "acquired"}
        landed = [line for line in partition if line["what"] == "commit" and line["answer"] in _LANDED]
        for commit in landed:
            _, mine = taken.get(commit["token"], (0, 0))
            if any(mine <= began and at <= commit["began"] for began, at in taken.values()):
                verdict.blame(
                    "wrong",
                    f"partition {at}: commit {commit['counter']} of {commit['token']} began after another had taken "
                    "the lease, and landed",
                )
        by_counter: dict[int, set[str]] = defaultdict(set)
        for commit in landed:
            by_counter[commit["counter"]].add(commit["token"])
        for counter, tokens in by_counter.items():
            if len(tokens) > 1:
                verdict.blame("wrong", f"partition {at}: commit {counter} was made by {len(tokens)} owners")
        _check_turns(at, [min(tokens) for _, tokens in sorted(by_counter.items())], verdict)


def _check_turns(partition: int, tokens: Iterable[str], verdict: Verdict) -> None:
    gone: set[str] = set()
    last = ""
    for token in tokens:
        if token != last:
            if token in gone:
                verdict.blame("wrong", f"partition {partition}: {token} committed again after another owner had")
            gone.add(last)
            last = token


def _check_training(evidence: Evidence, verdict: Verdict) -> None:
    often = Counter(name for _, name in evidence.requests)
    gone = [name for name in evidence.posted if name not in often]
    verdict.blame("lost", f"training requests are not in the stream: {gone[:3]}", len(gone))
    many = [name for name, count in often.items() if count > 1]
    verdict.blame("duplicated", f"training requests that were posted once are there twice: {many[:3]}", len(many))
    there = [entry for entry, _ in evidence.requests]
    answers = Counter(row["request"] for row in evidence.results)
    silent = [request for request in there if request not in answers]
    verdict.blame("lost", f"training requests without a result: {silent[:3]}", len(silent))
    twice = [request for request, count in answers.items() if count > 1]
    verdict.blame("duplicated", f"training requests with several results: {twice[:3]}", len(twice))
    failed = [row for row in evidence.results if row["status"] == "failed" or row["request"] not in there]
    verdict.blame("wrong", f"training results that should not be: {failed[:2]}", len(failed))
    for name, digests in evidence.versions.items():
        verdict.blame("duplicated", f"{name} has a version twice", len(digests) - len(set(digests)))

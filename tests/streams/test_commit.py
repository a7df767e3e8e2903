"""Every answer of the commit script, on every server, with what it leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, cast

import pytest
import redis
import redis.asyncio
from redis.exceptions import ConnectionError

from streams.clients import connect_async
from streams.commit import Answer, Commit, Committer, Retention
from streams.ids import ZERO, StreamID
from streams.keys import SCORERS, Keys
from streams.resume import lag
from tests.servers import Server, entries

KEYS = Keys("t").partition(3)
TOKEN = "me/1"


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[redis.asyncio.Redis]:
    client = connect_async(server.url)
    yield client
    await client.aclose()


@pytest.fixture
def version(client: redis.Redis) -> str:
    found: str = client.info("server")["redis_version"]
    return found


@pytest.fixture
def committer(async_client: redis.asyncio.Redis, version: str) -> Committer:
    return Committer(async_client, KEYS, server=version, retention=Retention(100_000))


@pytest.fixture
def ticks(client: redis.Redis) -> list[StreamID]:
    """Ten entries of input, and the lease in our hands."""
    client.set(KEYS.lease, TOKEN)
    return [StreamID.parse(client.xadd(KEYS.ticks, {"symbol": "A", "n": str(n)})) for n in range(10)]


def batch(last: StreamID, *, after: StreamID = ZERO, counter: int = 0, passed: int = 5, **more: Any) -> Commit:
    state: dict[str, str | bytes] = {"release": "r", "s:A": b'["\xc3\xa9"]'}
    outputs = [(KEYS.signals, ["side", "buy"]), (KEYS.dead, ["reason", "late"]), (KEYS.signals, ["side", "sell"])]
    wanted: dict[str, Any] = {"trim": None, "state": state, "outputs": outputs, **more}
    return Commit(counter=counter, after=after, last=last, checkpoint=last, entries=passed, **wanted)


def everything(client: redis.Redis) -> dict[bytes, Any]:
    """All data, to compare before and after."""
    found: dict[bytes, Any] = {}
    for key in client.scan_iter():
        kind = client.type(key)
        if kind == b"stream":
            found[key] = (client.xrange(key), client.xinfo_groups(key))
        elif kind == b"list":
            found[key] = client.lrange(key, 0, -1)
        else:
            found[key] = client.hgetall(key) if kind == b"hash" else client.get(key)
    return found


async def test_ok_writes_outputs_state_checkpoint_and_cursor(
    client: redis.Redis, committer: Committer, ticks: list[StreamID]
) -> None:
    assert await committer.commit(TOKEN, batch(ticks[4])) == (Answer.OK, "")
    assert [fields for _, fields in entries(client, KEYS.signals)] == [{b"side": b"buy"}, {b"side": b"sell"}]
    assert [fields for _, fields in entries(client, KEYS.dead)] == [{b"reason": b"late"}]
    state = client.hgetall(KEYS.state)
    assert state[b"checkpoint"] == str(ticks[4]).encode()
    assert (state[b"counter"], state[b"entries"], state[b"release"]) == (b"1", b"5", b"r")
    assert state[b"s:A"] == b'["\xc3\xa9"]'
    [group] = client.xinfo_groups(KEYS.ticks)
    assert group["name"] == SCORERS.encode()
    assert group["last-delivered-id"] == str(ticks[4]).encode()
    assert group["pending"] == 0


async def test_lag_is_exact_where_the_server_counts_it_and_unknown_elsewhere(
    async_client: redis.asyncio.Redis, committer: Committer, ticks: list[StreamID], version: str
) -> None:
    await committer.commit(TOKEN, batch(ticks[4]))
    expected = 5 if not version.startswith("6.") else None
    assert await lag(async_client, KEYS, ticks[4]) == expected
    await committer.commit(TOKEN, batch(ticks[9], after=ticks[4], counter=1, passed=10, trim=ticks[7]))
    assert await lag(async_client, KEYS, ticks[9]) == 0


async def test_the_same_call_again_is_dup_and_writes_nothing(
    client: redis.Redis, committer: Committer, ticks: list[StreamID]
) -> None:
    commit = batch(ticks[4])
    await committer.commit(TOKEN, commit)
    before = everything(client)
    assert (await committer.commit(TOKEN, commit))[0] is Answer.DUP
    assert everything(client) == before


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda c, t: c.set(KEYS.lease, "somebody else"), (Answer.FENCED, "")),
        (lambda c, t: c.delete(KEYS.lease), (Answer.FENCED, "")),
        (lambda c, t: c.hset(KEYS.state, mapping={"counter": "7", "nonce": "x"}), (Answer.RESET, "7")),
        (lambda c, t: c.hset(KEYS.state, mapping={"counter": "1", "nonce": "another"}), (Answer.RESET, "1")),
        (lambda c, t: c.xdel(KEYS.ticks, str(t[2])), (Answer.GAP, "2")),
        (lambda c, t: c.xdel(KEYS.ticks, str(t[4])), (Answer.GAP, "4")),
        (lambda c, t: c.delete(KEYS.ticks), (Answer.GAP, "4")),
        (lambda c, t: c.set(KEYS.state, "x"), (Answer.BROKEN, KEYS.state)),
        (lambda c, t: c.rpush(KEYS.dead, "x"), (Answer.BROKEN, KEYS.dead)),
        (lambda c, t: (c.delete(KEYS.lease), c.rpush(KEYS.lease, "x")), (Answer.BROKEN, KEYS.lease)),
        (lambda c, t: (c.delete(KEYS.ticks), c.set(KEYS.ticks, "x")), (Answer.BROKEN, KEYS.ticks)),
        (
            lambda c, t: c.xadd(KEYS.signals, {"a": "b"}, id=f"{2**64 - 1}-{2**64 - 1}"),
            (Answer.BROKEN, KEYS.signals),
        ),
    ],
    ids=[
        "another token", "no lease", "counter ahead", "nonce of another", "anchor gone", "last entry gone", "no input",
        "state of another type", "output of another type", "lease of another type", "input of another type",
        "exhausted id",
    ],
)  # fmt: skip
async def test_every_refusal_leaves_everything_as_it_was(
    client: redis.Redis, committer: Committer, ticks: list[StreamID], spoil: Any, expected: tuple[Answer, str]
) -> None:
    spoil(client, ticks)
    before = everything(client)
    answer, detail = await committer.commit(TOKEN, batch(ticks[4], after=ticks[2]))
    wanted = str(ticks[int(expected[1])]) if expected[0] is Answer.GAP else expected[1]
    assert (answer, detail) == (expected[0], wanted)
    assert everything(client) == before


async def test_trimming_keeps_the_checkpoint_whatever_is_asked(
    client: redis.Redis, committer: Committer, ticks: list[StreamID]
) -> None:
    await committer.commit(TOKEN, batch(ticks[4], trim=ticks[9]))
    assert [StreamID.parse(entry) for entry, _ in entries(client, KEYS.ticks)] == ticks[4:]


async def test_a_write_that_fails_all_the_same_costs_no_input(
    client: redis.Redis, server: Server, ticks: list[StreamID], version: str
) -> None:
    """As for a user who may not create groups: the batch can be read again once that is mended."""
    client.acl_setuser("narrow", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-xgroup"])
    link = connect_async(server.url)
    try:
        await cast(Any, link).execute_command("AUTH", "narrow", "x")
        with pytest.raises(redis.RedisError):
            await Committer(link, KEYS, server=version, retention=Retention(100)).commit(
                TOKEN, batch(ticks[4], trim=ticks[4])
            )
    finally:
        await link.aclose()
        client.acl_deluser("narrow")
    assert len(entries(client, KEYS.ticks)) == 10
    assert not client.exists(KEYS.state)


async def test_commits_drain_when_memory_is_full(
    client: redis.Redis, committer: Committer, ticks: list[StreamID]
) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(redis.ResponseError):
            client.xadd(KEYS.ticks, {"a": "b"})
        assert (await committer.commit(TOKEN, batch(ticks[4])))[0] is Answer.OK
    finally:
        client.config_set("maxmemory", 0)
    assert client.xlen(KEYS.signals) == 2


async def test_a_group_that_was_destroyed_comes_back_at_the_checkpoint(
    client: redis.Redis, committer: Committer, ticks: list[StreamID]
) -> None:
    await committer.commit(TOKEN, batch(ticks[4]))
    client.xgroup_destroy(KEYS.ticks, SCORERS)
    await committer.commit(TOKEN, batch(ticks[6], after=ticks[4], counter=1))
    [group] = client.xinfo_groups(KEYS.ticks)
    assert group["last-delivered-id"] == str(ticks[6]).encode()


async def test_a_forgotten_script_is_loaded_again(
    client: redis.Redis, committer: Committer, ticks: list[StreamID]
) -> None:
    await committer.commit(TOKEN, batch(ticks[4]))
    client.script_flush()
    assert (await committer.commit(TOKEN, batch(ticks[6], after=ticks[4], counter=1)))[0] is Answer.OK


async def test_a_lost_reply_is_cleared_up_without_writing_twice(
    client: redis.Redis, async_client: redis.asyncio.Redis, committer: Committer, ticks: list[StreamID]
) -> None:
    """The call lands, its reply does not: the second try finds out."""
    real, calls, waits = async_client.evalsha, 0, []

    async def lossy(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        reply = await real(*args)
        if calls == 1:
            raise ConnectionError("the connection broke")
        return reply

    async_client.evalsha = lossy  # type: ignore[method-assign, assignment]
    no_wait = asyncio.sleep
    answer, _ = await committer.commit(
        TOKEN, batch(ticks[4]), on_wait=lambda code, detail: waits.append(code), sleep=lambda seconds: no_wait(0)
    )
    assert (answer, calls, waits) == (Answer.DUP, 2, ["ConnectionError"])
    assert client.xlen(KEYS.signals) == 2


# The trim, and who still reads


def acknowledged(client: redis.Redis, group: str, ticks: list[StreamID], read: int, acked: int) -> None:
    """A group that has read some entries and acknowledged the first of them."""
    client.xgroup_create(KEYS.ticks, group, "0")
    if read:
        client.xreadgroup(group, "c", {KEYS.ticks: ">"}, count=read)
    for entry in ticks[:acked]:
        client.xack(KEYS.ticks, group, str(entry))


def kept(client: redis.Redis) -> list[StreamID]:
    return [StreamID.parse(entry) for entry, _ in entries(client, KEYS.ticks)]


def with_retention(client: redis.asyncio.Redis, version: str, short: bool = False, **retention: Any) -> Any:
    lost: dict[str, int] = {}

    def note(group: str, count: int) -> None:
        lost[group] = lost.get(group, 0) + count

    made = Committer(
        client, KEYS, server=version, retention=Retention(100_000, **retention), short=lambda: short, on_lost=note
    )
    return made, lost


@pytest.mark.parametrize(("read", "acked", "first"), [(0, 0, 0), (3, 0, 0), (3, 2, 2), (3, 3, 2), (6, 1, 1), (6, 6, 4)])
@pytest.mark.parametrize("required", [True, False], ids=["required", "foreign"])
async def test_nothing_is_trimmed_that_a_group_has_not_acknowledged(
    client: redis.Redis, async_client: redis.asyncio.Redis, ticks: list[StreamID], version: str,
    required: bool, read: int, acked: int, first: int,
) -> None:  # fmt: skip
    committer, lost = with_retention(async_client, version, required=("tap",) if required else ())
    acknowledged(client, "tap", ticks, read, acked)
    await committer.commit(TOKEN, batch(ticks[4], trim=ticks[4]))
    assert kept(client) == ticks[first:]
    assert not lost


async def test_a_required_group_that_does_not_exist_yet_holds_everything(
    client: redis.Redis, async_client: redis.asyncio.Redis, ticks: list[StreamID], version: str
) -> None:
    committer, _ = with_retention(async_client, version, short=True, foreign=0, required=("tap", "other"))
    acknowledged(client, "tap", ticks, 10, 10)
    assert await committer.commit(TOKEN, batch(ticks[4], trim=ticks[4])) == (Answer.OK, "other")
    assert kept(client) == ticks
    acknowledged(client, "other", ticks, 10, 10)
    assert await committer.commit(TOKEN, batch(ticks[6], after=ticks[4], counter=1, trim=ticks[6])) == (Answer.OK, "")


async def test_a_forgotten_group_is_waited_for_up_to_a_length_and_its_loss_is_counted(
    client: redis.Redis, async_client: redis.asyncio.Redis, ticks: list[StreamID], version: str
) -> None:
    committer, lost = with_retention(async_client, version, foreign=8)
    acknowledged(client, "forgotten", ticks, 2, 1)  # one acknowledged, one pending, eight unread
    acknowledged(client, "diligent", ticks, 10, 10)
    await committer.commit(TOKEN, batch(ticks[4], trim=ticks[4]))
    assert kept(client) == ticks[2:], "down to the length, no further"
    assert lost == {"forgotten": 1}, "the pending one; the other had been acknowledged"
    await committer.commit(TOKEN, batch(ticks[6], after=ticks[4], counter=1, trim=ticks[6]))
    assert (kept(client), lost) == (ticks[2:], {"forgotten": 1}), "not longer than it may be"
    more = [StreamID.parse(client.xadd(KEYS.ticks, {"a": "b"})) for _ in range(3)]
    await committer.commit(TOKEN, batch(ticks[9], after=ticks[6], counter=2, trim=ticks[9]))
    assert (kept(client), lost) == (ticks[5:] + more, {"forgotten": 4})


async def test_a_pending_entry_that_was_deleted_holds_nothing(
    client: redis.Redis, async_client: redis.asyncio.Redis, ticks: list[StreamID], version: str
) -> None:
    committer, _ = with_retention(async_client, version, required=("tap",))
    acknowledged(client, "tap", ticks, 3, 0)
    client.xdel(KEYS.ticks, *map(str, ticks[:3]))
    await committer.commit(TOKEN, batch(ticks[6], trim=ticks[6]))
    assert kept(client) == ticks[3:], "as far as it has read"
    client.xreadgroup("tap", "c", {KEYS.ticks: ">"}, noack=True)
    await committer.commit(TOKEN, batch(ticks[8], after=ticks[6], counter=1, trim=ticks[8]))
    assert kept(client) == ticks[8:]


async def test_a_required_group_keeps_what_a_foreign_one_may_lose(
    client: redis.Redis, async_client: redis.asyncio.Redis, ticks: list[StreamID], version: str
) -> None:
    committer, lost = with_retention(async_client, version, required=("tap",), foreign=0)
    acknowledged(client, "forgotten", ticks, 0, 0)
    acknowledged(client, "tap", ticks, 3, 2)
    await committer.commit(TOKEN, batch(ticks[6], trim=ticks[6]))
    assert kept(client) == ticks[2:]
    assert lost == {"forgotten": 2}


async def test_what_is_consumed_goes_at_once_when_memory_is_short_but_what_is_not_stays(
    client: redis.Redis, async_client: redis.asyncio.Redis, ticks: list[StreamID], version: str
) -> None:
    committer, lost = with_retention(async_client, version, short=True)
    acknowledged(client, "forgotten", ticks, 0, 0)
    await committer.commit(TOKEN, batch(ticks[4], trim=None))
    assert kept(client) == ticks[4:], "the checkpoint's own entry is the anchor"
    assert lost == {"forgotten": 4}


async def test_a_checkpoint_inside_a_block_keeps_the_block(
    client: redis.Redis, committer: Committer, ticks: list[StreamID]
) -> None:
    """The last entry read is not done with: it is checked, but the cursor stays before it."""
    half = replace(batch(ticks[5], trim=ticks[9]), checkpoint=ticks[4])
    assert await committer.commit(TOKEN, half) == (Answer.OK, "")
    assert kept(client) == ticks[4:]
    assert client.hget(KEYS.state, "checkpoint") == str(ticks[4]).encode()
    [group] = client.xinfo_groups(KEYS.ticks)
    assert group["last-delivered-id"] == str(ticks[4]).encode()
    client.xdel(KEYS.ticks, str(ticks[5]))
    again = replace(batch(ticks[5], after=ticks[4], counter=1), checkpoint=ticks[4])
    assert await committer.commit(TOKEN, again) == (Answer.GAP, str(ticks[5]))

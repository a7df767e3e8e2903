from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import redis

from consumers import monitor as monitor_module
from consumers.checkpoint import Checkpoints
from consumers.monitor import Monitor
from consumers.retraining import Rules
from modelstore.errors import ReleaseConflict
from modelstore.releases import Releases
from modelstore.saves import SaveBarrier
from modelstore.verdicts import Verdicts
from streams.keys import Keys
from streams.records import TrainingRequest
from streams.settings import Pipeline
from streams.tenant import Tenant
from tests.consumers.asking import entries
from tests.consumers.outcomes import World
from tests.servers import Server

TENANT = Tenant(Keys("t"), 2, Pipeline(intervals=("1d",), columns=("close",), horizons=(1, 5)))
HORIZONS = {"close_1": 1, "close_5": 5}
RULES = Rules(("close_1", "close_5"), 0, 0.0, 10, 60, 10_000)


def world_of(client: redis.Redis, series: str = "SPY:1d") -> World:
    return World(client, TENANT, series, HORIZONS, client)


@pytest.fixture
def world(client: redis.Redis) -> World:
    return world_of(client)


def monitor_of(client: redis.Redis, rules: Rules = RULES) -> Monitor:
    return Monitor(streams=client, models=client, tenant=TENANT, rules=rules)


def steady(size: float) -> Callable[[int], float]:
    return lambda bar: size


def verdicts(client: redis.Redis, target: str, series: str = "SPY:1d") -> list[tuple[str, str, str | None]]:
    found = Verdicts(client, TENANT.keys).of(f"{series}/{target}")
    return [(noted.note.verdict, noted.note.version, noted.note.over) for noted in reversed(found)]


def requests(client: redis.Redis) -> list[TrainingRequest]:
    return [TrainingRequest.from_fields(fields) for _, fields in entries(client, TENANT.keys.requests)]


def play(world: World, monitor: Monitor, bars: int) -> None:
    """Close bars one by one, the monitor in step."""
    for _ in range(bars):
        world.close()
        monitor.step()


def test_a_better_challenger_is_promoted_with_its_reason_and_proven_by_what_it_does_as_champion(
    client: redis.Redis, world: World
) -> None:
    old, new = world.version("close_1", 1, steady(1.0)), world.version("close_1", 2, steady(0.8))
    world.alias("close_1", champion=old, challenger=new)
    monitor = monitor_of(client)
    play(world, monitor, 200)
    assert world.aliases("close_1") == {"champion": new, "proven": new}
    assert verdicts(client, "close_1") == [("promoted", new, old), ("proven", new, None)]
    switch = Releases(client, TENANT.keys).history()[1]
    assert switch.who == "gate"
    assert "close_1 promoted: after 64 bars" in switch.why
    (noted,) = [n for n in Verdicts(client, TENANT.keys).of("SPY:1d/close_1") if n.note.verdict == "promoted"]
    assert noted.release == switch.id
    assert noted.note.at == 65 * 86_400 * 10**9, "event time, not the wall clock's"


def test_a_worse_challenger_goes_and_one_without_difference_stays_on_trial(client: redis.Redis, world: World) -> None:
    for target, size in (("close_1", 1.4), ("close_5", 1.0)):
        champion = world.version(target, 1, steady(1.0))
        world.alias(target, champion=champion, challenger=world.version(target, 2, steady(size)))
    monitor = monitor_of(client)
    play(world, monitor, 100)
    assert set(world.aliases("close_1")) == {"champion"}
    assert [word for word, _, _ in verdicts(client, "close_1")] == ["dropped"]
    assert set(world.aliases("close_5")) == {"champion", "challenger"}
    assert verdicts(client, "close_5") == []


def test_a_champion_is_proven_once_and_loses_it_when_it_drifts_and_is_trained_on_what_came_since(
    client: redis.Redis, world: World
) -> None:
    flip = 400
    champion = world.version("close_1", 1, lambda bar: 0.7 if bar < flip else 1.4)
    world.alias("close_1", champion=champion)
    monitor = monitor_of(client)
    play(world, monitor, flip)
    assert world.aliases("close_1") == {"champion": champion, "proven": champion}
    play(world, monitor, 200)
    assert world.aliases("close_1") == {"champion": champion}
    assert [word for word, _, _ in verdicts(client, "close_1")][:2] == ["proven", "drift"]
    first = requests(client)[0]
    assert first.targets == ("close_1",)
    assert first.since is not None
    assert abs(first.since // (86_400 * 10**9) - flip) <= 30
    assert first.as_of is not None
    assert first.as_of - first.since >= RULES.fresh_bars * 86_400 * 10**9
    assert first.why is not None
    assert first.why.startswith("drift since 1971")
    assert [request.id for request in requests(client)] == list(dict.fromkeys(r.id for r in requests(client)))


def test_a_champion_that_does_harm_is_trained_anew_and_its_doubt_is_on_record(
    client: redis.Redis, world: World
) -> None:
    champion = world.version("close_1", 1, steady(1.5))
    world.alias("close_1", champion=champion)
    play(world, monitor_of(client), 70)
    assert verdicts(client, "close_1") == [("doubted", champion, None)]
    (request,) = requests(client)
    assert (request.targets, request.since) == (("close_1",), None)


def test_a_verdict_about_versions_that_are_no_longer_in_force_is_void(client: redis.Redis, world: World) -> None:
    old, new, other = (world.version("close_1", seed, steady(size)) for seed, size in ((1, 1.0), (2, 0.5), (3, 1.0)))
    world.alias("close_1", champion=old, challenger=new)
    world.close(66)
    world.alias("close_1", challenger=other)
    assert monitor_of(client).step() > 0
    assert world.aliases("close_1") == {"champion": old, "challenger": other}
    assert "promoted" not in [word for word, _, _ in verdicts(client, "close_1")]


def test_forecasts_of_a_release_that_is_not_known_are_passed_over(
    client: redis.Redis, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.alias("close_1", champion=world.version("close_1", 1, steady(1.5)))
    world.close(80)
    current = Releases(client, TENANT.keys).current()
    assert current is not None
    client.delete(TENANT.keys.release(current.id))
    assert monitor_of(client).step() == 79
    assert requests(client) == []
    assert caplog.text.count("are not judged") == 1


WRONG: tuple[dict[bytes, bytes], ...] = (
    {b"made_by": b"[7]"},
    {b"errors": b"[]"},
    {b"bar": b"x"},
    {b"bar": b"1" * 30},
    {b"ts": b"9" * 30},
    {b"ts": b"-1"},
    {b"errors": b"[1e200]", b"naive_errors": b"[1e200]"},
)


def test_what_is_no_outcome_is_passed_over(client: redis.Redis, world: World, caplog: pytest.LogCaptureFixture) -> None:
    key = TENANT.keys.partition(world.partition).outcomes
    world.alias("close_1", champion=world.version("close_1", 1, steady(1.5)))
    world.close(5)
    (_, good), *_ = entries(client, key)
    for number, bad in enumerate(WRONG):
        client.xadd(key, {**good, **bad}, id=f"100-{number + 1}")  # type: ignore[dict-item]
    client.xadd(key, {**good, b"targets": b'["close_9"]', b"bar": b"90"}, id="101-1")  # type: ignore[dict-item]
    monitor = monitor_of(client)
    assert monitor.step() == 5 + len(WRONG)
    assert caplog.text.count("is passed over") == len(WRONG)
    world.bar = 120
    world.made = world.made[:1] * 120
    world.close(80)
    assert monitor.step() == 80
    assert [word for word, _, _ in verdicts(client, "close_1")] == ["doubted"]


def test_a_series_that_begins_anew_is_judged_anew(client: redis.Redis, world: World) -> None:
    world.alias("close_1", champion=world.version("close_1", 1, steady(1.5)))
    monitor = monitor_of(client)
    play(world, monitor, 200)
    again = world_of(client)
    again.good, again.streams = world.good, client
    key = TENANT.keys.partition(world.partition).outcomes
    kept = entries(client, key)
    for place, (_, fields) in enumerate(kept[:65]):
        client.xadd(key, fields, id=f"{1000 + place}-1")  # type: ignore[arg-type]
    monitor.step()
    assert monitor._memories["SPY:1d"].bar == 65
    assert len(requests(client)) == 1, "what was decided then is decided again, and is on record already"


def test_a_series_that_begins_anew_soon_is_judged_anew_and_what_is_there_twice_counts_once(
    client: redis.Redis, world: World
) -> None:
    """Some 60 bars of an earlier state lie in the log; bars are numbered from 0 again, in the next incarnation."""
    world.alias("close_1", champion=world.version("close_1", 1, steady(1.5)))
    monitor = monitor_of(client)
    play(world, monitor, 60)
    key = TENANT.keys.partition(world.partition).outcomes
    kept = entries(client, key)
    for place, (_, fields) in enumerate(kept[:40]):
        again: dict[Any, Any] = {**fields, b"src": b"1" + fields[b"src"][1:]}
        for copy in range(2):
            client.xadd(key, again, id=f"{1000 + place}-{1 + copy}")
    monitor.step()
    for reader in (monitor, monitor_of(client)):
        reader.step()
        memory = reader._memories["SPY:1d"]
        assert (memory.bar, memory.incarnation) == (40, 1)
        assert len(memory._review.targets["close_1"]._alone) == 40


def test_a_release_that_comes_back_counts_again(client: redis.Redis, world: World) -> None:
    """A store that was killed forgot a release, until the trainer did its work again."""
    world.alias("close_1", champion=world.version("close_1", 1, steady(1.5)))
    current = Releases(client, TENANT.keys).current()
    assert current is not None
    world.close(20)
    forgotten = client.dump(TENANT.keys.release(current.id))
    assert forgotten is not None
    client.delete(TENANT.keys.release(current.id))
    monitor = monitor_of(client)
    monitor.step()
    client.restore(TENANT.keys.release(current.id), 0, forgotten)
    play(world, monitor, 70)
    assert [word for word, _, _ in verdicts(client, "close_1")] == ["doubted"]


# Crashes and company


class Crash(Exception):
    """The process ends here."""


def story(world: World) -> Iterator[None]:
    """330 bars with something of everything; whoever follows it must come to the same."""
    champion = world.version("close_1", 1, lambda bar: 0.8 if bar < 160 else 1.5)
    world.alias("close_1", champion=champion)
    world.alias("close_5", champion=world.version("close_5", 1, steady(1.2)))
    for bar in range(330):
        if bar == 40:
            world.alias("close_1", challenger=world.version("close_1", 2, lambda bar: 0.6 if bar < 160 else 1.4))
            world.alias("close_5", challenger=world.version("close_5", 2, steady(1.4)))
        if bar == 200:
            world.alias("close_1", challenger=world.version("close_1", 3, steady(0.7)))
        world.close()
        if bar % 12 == 11:
            yield
    yield


def told(client: redis.Redis) -> dict[str, Any]:
    """Everything that a monitor decided, and the state that it is in; without what a wall clock or a store gives."""
    shown = Releases(client, TENANT.keys).history(1000)
    state = cast(dict[bytes, bytes], client.hgetall(TENANT.keys.monitor))
    return {
        "verdicts": {target: [note for note in verdicts(client, target)] for target in HORIZONS},
        "switches": [(switch.id, switch.who, switch.why) for switch in reversed(shown)],
        "requests": requests(client),
        "series": {name: value for name, value in state.items() if not name.startswith(b"counter")},
    }


@pytest.fixture(scope="module")
def expected(shared_server: Server) -> dict[str, Any]:
    """What a monitor decides that nothing disturbs; the same on every server."""
    with shared_server.client() as client:
        return undisturbed(client)


def undisturbed(client: redis.Redis) -> dict[str, Any]:
    client.flushall()
    world = world_of(client)
    monitor = monitor_of(client)
    for _ in story(world):
        monitor.step()
    found = told(client)
    client.flushall()
    return found


def test_the_story_has_something_of_everything(expected: dict[str, Any]) -> None:
    words = {word for notes in expected["verdicts"].values() for word, _, _ in notes}
    assert words == {"promoted", "dropped", "drift", "proven", "doubted"}
    assert expected["requests"]


STEPS = [
    (Monitor, "take", "after"),
    (Monitor, "judge", "after"),
    (Releases, "promote", "before"),
    (Releases, "promote", "after"),
    (Verdicts, "note", "after"),
    (monitor_module, "post_once", "after"),
    (Checkpoints, "write", "before"),
    (Checkpoints, "write", "after"),
]


@pytest.mark.parametrize(("owner", "step", "when"), STEPS, ids=[f"{when} {step}" for _, step, when in STEPS])
def test_a_crash_at_any_step_changes_nothing_that_is_decided(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, expected: dict[str, Any], owner: Any, step: str, when: str
) -> None:
    world = world_of(client)
    monitor = monitor_of(client)
    original: Callable[..., Any] = getattr(owner, step)
    crashes: list[int] = []

    def crash(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            original(*args, **kwargs)
        crashes.append(1)
        raise Crash

    for _ in story(world):
        if len(crashes) < 40:
            monkeypatch.setattr(owner, step, crash)
            try:
                monitor.step()
            except Crash:
                monitor = monitor_of(client)
            monkeypatch.setattr(owner, step, original)
        monitor.step()
    assert crashes
    assert told(client) == expected


def test_a_monitor_that_begins_again_after_every_outcome_decides_the_same(
    client: redis.Redis, expected: dict[str, Any]
) -> None:
    for _ in story(world_of(client)):
        monitor_of(client).step()
    assert told(client) == expected


def test_two_monitors_at_once_do_no_harm(
    client: redis.Redis, expected: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = monitor_of(client), monitor_of(client)
    for count, _ in enumerate(story(world_of(client))):
        # Both have read the same entries before either has written.
        if one.take():
            one.judge()
        if count % 3:
            two.step()
        one.settle()
        one.step()
    assert told(client) == expected
    assert "another monitor is at work" in caplog.text


def test_a_reply_that_was_lost_is_no_loss(
    client: redis.Redis, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original: Callable[..., Any] = redis.Redis.eval
    calls = 0

    def lossy(self: redis.Redis, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        found = original(self, *args)
        if calls % 3 == 0 and self is own:
            raise redis.ConnectionError("reply lost")
        return found

    world = world_of(client)
    own = redis.Redis(connection_pool=client.connection_pool)
    monitor = monitor_of(own)
    monkeypatch.setattr(redis.Redis, "eval", lossy)
    for _ in story(world):
        for _ in range(20):
            try:
                monitor.step()
                break
            except redis.ConnectionError:
                continue
    assert told(client) == expected


def test_a_store_that_is_busy_with_others_is_tried_again(
    client: redis.Redis, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.alias("close_1", champion=world.version("close_1", 1, steady(0.5)))
    world.close(70)
    monitor = monitor_of(client)
    original = Releases.promote

    def busy(*args: Any, **kwargs: Any) -> Any:
        raise ReleaseConflict(None, "x")

    monkeypatch.setattr(Releases, "promote", busy)
    with pytest.raises(ReleaseConflict):
        monitor.step()
    monkeypatch.setattr(Releases, "promote", original)
    assert monitor.step() == 69
    assert "proven" in world.aliases("close_1")


def test_outcomes_that_a_redis_lost_are_said_and_the_rest_goes_on(
    client: redis.Redis, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.alias("close_1", champion=world.version("close_1", 1, steady(1.0)))
    world.close(40)
    assert monitor_of(client).step() == 39
    key = TENANT.keys.partition(world.partition).outcomes
    client.delete(key)
    world.bar, world.made = 30, world.made[:30]
    world.close(30)
    monitor = monitor_of(client)
    assert monitor.step() == 20
    assert monitor._memories["SPY:1d"].bar == 59


def test_outcomes_that_were_trimmed_too_early_are_missed_aloud(
    client: redis.Redis, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.alias("close_1", champion=world.version("close_1", 1, steady(1.0)))
    world.close(40)
    monitor_of(client).step()
    monitor_of(client).step()
    assert "trimmed" not in caplog.text
    client.xtrim(TENANT.keys.partition(world.partition).outcomes, maxlen=10, approximate=False)
    monitor_of(client).step()
    assert "outcomes of SPY:1d were trimmed that are still needed: raise keep_outputs" in caplog.text


def test_an_idle_monitor_writes_nothing(client: redis.Redis, world: World) -> None:
    world.alias("close_1", champion=world.version("close_1", 1, steady(1.0)))
    world.close(10)
    monitor = monitor_of(client)
    monitor.step()
    before = client.hgetall(TENANT.keys.monitor)
    assert monitor.step() == 0
    assert client.hgetall(TENANT.keys.monitor) == before


def test_it_runs_on_a_server(server: Server) -> None:
    with server.client() as client:
        assert monitor_of(client).step() == 0


def test_decisions_that_a_killed_store_forgot_are_made_again(
    server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The models Redis dies between a switch and the save that would have kept it."""
    store = Server(server.binary).start()
    try:
        with store.client() as models:
            world = World(client, TENANT, "SPY:1d", HORIZONS, models)
            old, new = world.version("close_1", 1, steady(1.0)), world.version("close_1", 2, steady(0.8))
            world.alias("close_1", champion=old, challenger=new)
            models.save()
            monitor = Monitor(streams=client, models=models, tenant=TENANT, rules=RULES)
            deaths: list[float] = []

            def die(self: SaveBarrier, timeout_s: float) -> None:
                assert world.aliases("close_1")["champion"] == new, "the switch was made"
                if not deaths:
                    deaths.append(timeout_s)
                    store.kill()
                    store.start()
                    assert world.aliases("close_1")["champion"] == old, "and is forgotten"
                saved(self, timeout_s)

            saved = SaveBarrier.wait_saved
            monkeypatch.setattr(SaveBarrier, "wait_saved", die)
            world.close(66)
            for _ in range(4):
                try:
                    monitor.step()
                except redis.ConnectionError:
                    continue
            assert deaths
            assert world.aliases("close_1") == {"champion": new}
            assert [word for word, _, _ in verdicts(models, "close_1")] == ["promoted"]
            store.kill()
            store.start()
            assert world.aliases("close_1") == {"champion": new}, "what the checkpoint passed is saved"
    finally:
        store.close()

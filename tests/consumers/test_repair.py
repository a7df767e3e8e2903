"""What is deleted, destroyed or restored under running workers mends itself: nobody has to come.

A real scorer waits for input (it blocks) while the trouble happens; then the same publisher, which has been there
before, goes on, and so must everything else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from producers.publisher import TickPublisher
from streams.append import PublishError
from streams.keys import SCORERS, PartitionKeys
from streams.records import DeadLetter
from streams.settings import load_settings
from tests.conftest import binary_of
from tests.servers import Server, entries
from tests.workers import Workers, caught_up, until, workers

pytestmark = pytest.mark.timeout(120)

MINUTE = 60_000_000_000


@dataclass
class Scene:
    """A scorer that has caught up, its server, and a publisher that has sent ten bars' worth of ticks."""

    server: Server
    client: redis.Redis
    crew: Workers
    publisher: TickPublisher
    home: PartitionKeys
    sent: int = 0

    def publish(self, bars: int) -> None:
        rows = [("AAPL", 100.0 + n, 1.0, n * MINUTE) for n in range(self.sent, self.sent + bars)]
        self.publisher.publish_many(rows)
        self.sent += bars

    def bars(self) -> list[int]:
        found = entries(self.client, self.home.bars("AAPL:1m"))
        return [int(fields[b"start"]) // MINUTE for _, fields in found]

    def settle(self) -> None:
        until(lambda: caught_up(self.client, self.publisher.tenant), "all is consumed", logs=self.crew.logs)

    def group(self) -> bytes | None:
        """The cursor of the scorers' group, if there is one."""
        try:
            groups = self.client.xinfo_groups(self.home.ticks)
        except redis.ResponseError:
            return None
        return next((group["last-delivered-id"] for group in groups if group["name"] == SCORERS.encode()), None)


@pytest.fixture(params=["embedded", "system"])
def scene(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    server = Server(binary_of(request.param), ("--appendonly", "yes", "--appendfsync", "always")).start()
    env = {"RED10_STREAMS_URL": server.url, "RED10_MODELS_URL": server.url, "RED10_PARTITIONS": "2"}
    env |= {"RED10_LEASE_MS": "800"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    settings, origins = load_settings()
    with (
        workers(env, tmp_path) as crew,
        server.client() as client,
        TickPublisher(settings, origins=origins, blocks="never") as publisher,
    ):
        home = publisher.tenant.keys.partition(publisher.tenant.partition_of("AAPL"))
        found = Scene(server, client, crew, publisher, home)
        crew.start("scorer")
        found.publish(10)
        until(lambda: len(found.bars()) == 9, "the first bars", logs=crew.logs)
        found.settle()
        yield found
    server.close()


def test_a_destroyed_group_comes_back_where_it_was_though_nothing_comes_in(scene: Scene) -> None:
    before = scene.group()
    scene.client.xgroup_destroy(scene.home.ticks, SCORERS)
    until(lambda: scene.group() == before, "the group is back", logs=scene.crew.logs)
    scene.publish(2)
    until(lambda: scene.bars() == list(range(11)), "the next bars, none twice", logs=scene.crew.logs)


def test_a_deleted_input_stream_begins_again_and_the_publisher_goes_on(scene: Scene) -> None:
    scene.client.delete(scene.home.ticks)
    until(lambda: scene.group() is not None, "the stream is made anew", logs=scene.crew.logs)
    scene.publish(3)
    until(lambda: scene.bars() == list(range(12)), "all bars, none twice", logs=scene.crew.logs)
    scene.settle()
    assert scene.client.hget(scene.home.state, "incarnation") == b"1"
    [letter] = [DeadLetter.from_fields(fields) for _, fields in entries(scene.client, scene.home.dead)]
    assert letter.reason == "gap", "what is lost is on record"
    assert not letter.fields


def test_a_stream_whose_ids_are_used_up_is_moved_away_and_all_goes_on(scene: Scene) -> None:
    """Ids that went on behind the last possible one would leave the new stream as full as the old one was."""
    last: dict[Any, Any] = {"symbol": "AAPL", "price": "110.0", "size": "1.0", "ts": str(10 * MINUTE)}
    scene.client.xadd(scene.home.ticks, last, id=f"{2**64 - 1}-{2**64 - 1}")
    scene.sent = 11
    scene.settle()
    with pytest.raises(PublishError, match=f"{scene.home.ticks} is no stream with ids left"):
        scene.publish(1)
    scene.client.rename(scene.home.ticks, f"{scene.home.ticks}:old")
    until(lambda: scene.group() is not None, "the stream is made anew", logs=scene.crew.logs)
    scene.publish(3)
    until(lambda: scene.bars() == list(range(13)), "all bars, none twice", logs=scene.crew.logs)
    scene.settle()


def test_entries_deleted_under_the_reader_are_on_record(scene: Scene) -> None:
    scene.client.xtrim(scene.home.ticks, 0, approximate=False)
    scene.publish(3)
    until(lambda: scene.bars() == list(range(12)), "the next bars", logs=scene.crew.logs)
    [letter] = [DeadLetter.from_fields(fields) for _, fields in entries(scene.client, scene.home.dead)]
    assert letter.reason == "gap"


def test_a_deleted_state_is_made_anew_from_the_input(scene: Scene) -> None:
    scene.client.delete(scene.home.state)
    until(lambda: len(scene.bars()) == 18, "the bars once more, in a new incarnation", logs=scene.crew.logs)
    scene.publish(2)
    until(lambda: scene.bars() == [*range(9), *range(11)], "and the next ones", logs=scene.crew.logs)
    assert scene.client.hget(scene.home.state, "incarnation") == b"1"


def test_a_state_deleted_together_with_its_group_gives_no_source_twice(scene: Scene) -> None:
    """Nothing but the outputs tells then that the input was read before."""
    with scene.client.pipeline() as pipe:
        pipe.delete(scene.home.state)
        pipe.xgroup_destroy(scene.home.ticks, SCORERS)
        pipe.execute()
    until(lambda: len(scene.bars()) == 18, "the bars once more, in a new incarnation", logs=scene.crew.logs)
    scene.publish(2)
    until(lambda: scene.bars() == [*range(9), *range(11)], "and the next ones", logs=scene.crew.logs)
    sources = [fields[b"src"] for _, fields in entries(scene.client, scene.home.bars("AAPL:1m"))]
    assert len(set(sources)) == len(sources)


def test_workers_do_not_go_on_in_a_tenant_that_others_made_anew_otherwise(scene: Scene) -> None:
    with scene.client.pipeline() as pipe:
        pipe.flushall()
        pipe.hset(scene.publisher.tenant.keys.meta, mapping={"partitions": "5", "pipeline": "{}"})
        pipe.execute()
    scorer = scene.crew.started[0].process
    assert scorer is not None
    assert scorer.wait(30) == 2
    assert "created anew with 5 partitions" in scene.crew.logs()


def test_after_flushall_everything_begins_empty_and_goes_on(scene: Scene) -> None:
    scene.client.flushall()
    until(lambda: scene.client.exists(scene.publisher.tenant.keys.meta), "the tenant", logs=scene.crew.logs)
    scene.publish(3)
    until(lambda: scene.bars() == [10, 11], "the bars of what came since", logs=scene.crew.logs)
    assert "as after FLUSHALL" in scene.crew.logs()
    assert scene.publisher.numbering.resets == 1
    assert scene.client.hget(scene.publisher.tenant.keys.meta, "partitions") == b"2"


def test_an_older_append_only_file_is_gone_on_from(scene: Scene, tmp_path: Path) -> None:
    files = [path for path in scene.server.directory.iterdir() if path.name.startswith("appendonly")]
    for path in files:
        copy: Callable[..., object] = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    scene.publish(5)
    until(lambda: len(scene.bars()) == 14, "later bars", logs=scene.crew.logs)
    scene.settle()
    scene.server.kill()
    for path in files:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.move(tmp_path / path.name, path)
    scene.server.start()
    scene.client.connection_pool.disconnect()
    until(lambda: len(scene.bars()) == 9, "the older state", logs=scene.crew.logs)
    scene.publish(3)
    until(lambda: scene.bars() == [*range(10), 15, 16], "what comes after what was lost", logs=scene.crew.logs)
    assert (scene.publisher.numbering.gaps, scene.publisher.numbering.lost) == (1, 5)

"""Every Redis key that Red10 uses is built here, and nowhere else.

Streams role. Keys of partition `p` of tenant `T` carry the hash tag `{T:p}`, so that one script reaches them all and
a Redis Cluster can spread partitions:

    red10:{T:p}:ticks          stream  input: ticks, blocks, clock and release entries
    red10:{T:p}:bars:SERIES    stream  closed bars of one series
    red10:{T:p}:predictions    stream  one entry per bar close, all targets
    red10:{T:p}:signals        stream  changes of target positions
    red10:{T:p}:outcomes       stream  what became of predictions
    red10:{T:p}:dead           stream  dead letters: reason and raw fields
    red10:{T:p}:state          hash    the partition's state, written by the commit only
    red10:{T:p}:lease          string  the owner's random token, with a time to live
    red10:{T:p}:publishers     hash    last sequence number and entry id per publisher
    red10:{T:p}:retried        zset    dead letters of other partitions that were published here again -> when, ms
    red10:{T}:tenant           hash    partition count and pipeline, fixed at creation
    red10:{T}:members          zset    worker name -> last heartbeat, Redis time in ms
    red10:{T}:wake             pubsub  a lease was released
    red10:{T}:requests         stream  training and prediction requests, group `trainers`
    red10:{T}:results          stream  what became of each request
    red10:{T}:predictions      stream  answers to prediction requests
    red10:{T}:answered         zset    requests that have their answer -> when they were posted, ms
    red10:{T}:attempts         hash    request under way -> history of its deliveries, JSON
    red10:{T}:dead             stream  requests that were given up
    red10:{T}:posted           zset    ids of requests that are posted once only -> when, ms
    red10:{T}:monitor          hash    how far the monitor is, and what it knows of each series
    red10:tenants              zset    tenant -> creation time, ms

Models role. All keys of a tenant carry the hash tag `{T}`:

    red10:{T}:version:DIGEST   hash    one immutable version (fields: see modelstore.store)
    red10:{T}:model:NAME       hash    version number -> digest, and `last`, the last number given
    red10:{T}:models           zset    model names, score 0 (ordered by name)
    red10:{T}:versions         zset    digests of all versions, score 0 (ordered by digest)
    red10:{T}:release:ID       hash    one immutable release (fields: see modelstore.releases)
    red10:{T}:release          hash    the pointer: id and number of the release in force
    red10:{T}:releases         stream  history of release switches
    red10:{T}:verdicts:NAME    stream  what was decided about one model, and why
    red10:{T}:events           pubsub  wakes followers after a switch
    red10:store                hash    uuid of this model store
"""

from __future__ import annotations

from dataclasses import dataclass

from streams.series import Series, check_tenant

#: Consumer group of the partitions' ticks streams; its cursor is moved by the commit.
SCORERS = "scorers"
#: Consumer group of the request stream.
TRAINERS = "trainers"

TENANTS = "red10:tenants"
STORE = "red10:store"


@dataclass(frozen=True, slots=True)
class PartitionKeys:
    """Keys of one partition, all in one hash slot."""

    tenant: str
    partition: int

    def _key(self, name: str) -> str:
        return f"red10:{{{self.tenant}:{self.partition}}}:{name}"

    @property
    def ticks(self) -> str:
        """Stream: the partition's input."""
        return self._key("ticks")

    def bars(self, series: Series | str) -> str:
        """Stream: closed bars of one series."""
        return self._key(f"bars:{series}")

    @property
    def predictions(self) -> str:
        """Stream: one entry per bar close, all targets."""
        return self._key("predictions")

    @property
    def signals(self) -> str:
        """Stream: changes of target positions."""
        return self._key("signals")

    @property
    def outcomes(self) -> str:
        """Stream: what became of predictions."""
        return self._key("outcomes")

    @property
    def dead(self) -> str:
        """Stream: dead letters."""
        return self._key("dead")

    @property
    def state(self) -> str:
        """Hash: the partition's state."""
        return self._key("state")

    @property
    def lease(self) -> str:
        """String: the owner's token."""
        return self._key("lease")

    @property
    def publishers(self) -> str:
        """Hash: last sequence number and entry id per publisher."""
        return self._key("publishers")

    @property
    def retried(self) -> str:
        """Sorted set: dead letters of other partitions that were published here again."""
        return self._key("retried")


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of one tenant.

    Raises:
        BadName: the tenant cannot be one.
    """

    tenant: str

    def __post_init__(self) -> None:
        check_tenant(self.tenant)

    def _key(self, name: str) -> str:
        return f"red10:{{{self.tenant}}}:{name}"

    def partition(self, partition: int) -> PartitionKeys:
        """Keys of one partition."""
        return PartitionKeys(self.tenant, partition)

    @property
    def meta(self) -> str:
        """Hash: partition count and pipeline, fixed at creation."""
        return self._key("tenant")

    @property
    def members(self) -> str:
        """Sorted set: workers and their last heartbeat."""
        return self._key("members")

    @property
    def wake(self) -> str:
        """Channel: a lease was released."""
        return self._key("wake")

    @property
    def requests(self) -> str:
        """Stream: training and prediction requests."""
        return self._key("requests")

    @property
    def results(self) -> str:
        """Stream: what became of each request."""
        return self._key("results")

    @property
    def predictions(self) -> str:
        """Stream: answers to prediction requests."""
        return self._key("predictions")

    @property
    def answered(self) -> str:
        """Sorted set: requests that have their answer."""
        return self._key("answered")

    @property
    def attempts(self) -> str:
        """Hash: histories of the requests under way."""
        return self._key("attempts")

    @property
    def dead(self) -> str:
        """Stream: requests that were given up."""
        return self._key("dead")

    @property
    def posted(self) -> str:
        """Sorted set: ids of the requests that are posted once only."""
        return self._key("posted")

    @property
    def monitor(self) -> str:
        """Hash: how far the monitor is, and what it knows of each series."""
        return self._key("monitor")

    def version(self, digest: str) -> str:
        """Hash: one immutable model version."""
        return self._key(f"version:{digest}")

    def model(self, name: str) -> str:
        """Hash: the versions of one model by number."""
        return self._key(f"model:{name}")

    @property
    def models(self) -> str:
        """Sorted set: model names."""
        return self._key("models")

    @property
    def versions(self) -> str:
        """Sorted set: digests of all versions."""
        return self._key("versions")

    def release(self, release_id: str) -> str:
        """Hash: one immutable release."""
        return self._key(f"release:{release_id}")

    @property
    def release_pointer(self) -> str:
        """Hash: the release in force."""
        return self._key("release")

    @property
    def releases(self) -> str:
        """Stream: history of release switches."""
        return self._key("releases")

    def verdicts(self, name: str) -> str:
        """Stream: what was decided about one model, and why."""
        return self._key(f"verdicts:{name}")

    @property
    def events(self) -> str:
        """Channel: wakes followers after a release switch."""
        return self._key("events")

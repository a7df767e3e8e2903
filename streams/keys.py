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
    red10:{T}:candidates       zset    ids of releases that were never in force -> when they were stored, ms
    red10:{T}:events           pubsub  wakes followers after a switch
    red10:{T}:tags:DIGEST      hash    tags of one version: key -> value, "" for a word
    red10:{T}:imports          zset    running imports -> when they count as dead, ms
    red10:{T}:pins             zset    DIGEST:IMPORT, score 0: versions that a running import needs
    red10:{T}:index            hash    how many rows the index has (fields: see modelstore.index)
    red10:{T}:index:free       list    rows of removed versions, to be used again
    red10:{T}:index:datasets   hash    what stands before the / of models' names -> code
    red10:{T}:index:targets    hash    what stands after it -> code
    red10:{T}:index:metrics    hash    metric -> how many versions have it
    red10:{T}:index:tags       hash    tag -> how many versions have it
    red10:{T}:column:NAME      string  one cell per row: digest, created, trained_through, dataset, target
    red10:{T}:metric:NAME      string  one cell per row: a metric
    red10:{T}:tagged:TAG       set     rows of the versions with a tag, KEY or KEY=VALUE
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

    @property
    def candidates(self) -> str:
        """Sorted set: ids of releases that were never in force."""
        return self._key("candidates")

    def tags(self, digest: str) -> str:
        """Hash: the tags of one version."""
        return self._key(f"tags:{digest}")

    @property
    def imports(self) -> str:
        """Sorted set: running imports and when they count as dead."""
        return self._key("imports")

    @property
    def pins(self) -> str:
        """Sorted set: versions that a running import needs."""
        return self._key("pins")

    @property
    def pruned(self) -> str:
        """String that expires: old versions were removed in this period."""
        return self._key("pruned")

    @property
    def index(self) -> str:
        """Hash: how many rows the index has."""
        return self._key("index")

    @property
    def index_free(self) -> str:
        """List: rows of removed versions."""
        return self._key("index:free")

    @property
    def index_datasets(self) -> str:
        """Hash: dataset or series -> code."""
        return self._key("index:datasets")

    @property
    def index_targets(self) -> str:
        """Hash: target -> code."""
        return self._key("index:targets")

    @property
    def index_metrics(self) -> str:
        """Hash: metric -> how many versions have it."""
        return self._key("index:metrics")

    @property
    def index_tags(self) -> str:
        """Hash: tag -> how many versions have it."""
        return self._key("index:tags")

    def column(self, name: str) -> str:
        """String: one cell per row of the index."""
        return self._key(f"column:{name}")

    def metric(self, name: str) -> str:
        """String: one cell per row of the index, a metric."""
        return self._key(f"metric:{name}")

    def tagged(self, tag: str) -> str:
        """Set: rows of the versions with a tag."""
        return self._key(f"tagged:{tag}")

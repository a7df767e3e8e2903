"""The versions of a tenant's models, in Redis: storing and reading. Nothing that is stored is ever overwritten.

Owns, in the models role (`put_version.lua` writes them):

    red10:{T}:version:DIGEST  hash  name      the model's name
                                    number    decimal, counts the versions of the model
                                    created   decimal, epoch ms, the store's clock
                                    row       decimal, its row in the index (`modelstore.index`)
                                    parts     SHA-256 of each part (see `modelstore.version`), 128 bytes
                                    manifest  canonical JSON, zstd
                                    serving   what scorers need besides the forest (`modelstore.manifest.Serving`)
                                    forest    the packed trees (`modelstore.forest`)
                                    ubj       the XGBoost model, zstd
    red10:{T}:model:NAME      hash  number -> digest, and `last`, the last number given
    red10:{T}:models          zset  names of the models, score 0
    red10:{T}:versions        zset  digests of all versions, score 0
    red10:store               hash  uuid      random, made with the first version; another uuid is another store

Invariants: a version hash is whole or absent, and the model's hash, both sorted sets and the index name it; a number is
given once, also after versions were removed (`modelstore.retention`). One script writes a version, so a crash of either
side between two versions leaves whole ones, and putting the same again changes nothing. What is read is checked against
the digest before it is returned.

Methods raise the driver's errors (`redis.RedisError`) as they are; `streams.clients` judges them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeAlias, TypeVar, cast

import redis
import redis.client
from pydantic import SecretStr

from modelstore.bulk import ServingBlobs, read_serving
from modelstore.compression import compress, decompress
from modelstore.errors import BadModel, NotFound
from modelstore.index import index_arguments, index_keys, metric_cells, script, trained_cell
from modelstore.manifest import MAX_MANIFEST, Manifest
from modelstore.names import ModelName, VersionRef, check_digest, check_name
from modelstore.resolve import beginning, resolve
from modelstore.version import Incoming, NewVersion, VersionInfo, check_agreement, check_parts, read_manifest
from streams.clients import connect
from streams.keys import STORE, Keys
from streams.locate import locate
from streams.settings import load_settings

T = TypeVar("T")
Pipeline: TypeAlias = redis.client.Pipeline

#: Versions per round trip when storing: about 1 MB.
PUT_CHUNK = 30
#: Versions per round trip when reading in bulk: 1.6 MB of forests; more gained nothing.
READ_CHUNK = 200
#: Most bytes of an XGBoost model before compression.
MAX_UBJ = 2**30


class VersionStore:
    """Stores and reads versions. Safe to use from several threads, as the client is."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        self._put_script = script("put_version.lua")

    @classmethod
    def open(cls, url: SecretStr | str | None = None, tenant: str | None = None) -> Self:
        """The store of a tenant.

        Args:
            url: of the models role; left out, as the settings say: `models_url`, or a running embedded server.
            tenant: left out, as the settings say, or `default` if a URL is given.

        Raises:
            ConfigurationError: the URL is none, or there is no server.
            BadName: the tenant cannot be one.
        """
        if url is None:
            settings, _ = load_settings()
            url, tenant = locate(settings, "models"), tenant or settings.tenant
        return cls(connect(url), Keys(tenant or "default"))

    def put_many(self, versions: Sequence[NewVersion]) -> list[VersionInfo]:
        """Store versions; one that is there already keeps its number and its time.

        After an error some are stored and some not; doing it again completes it.

        Raises:
            BadName: a manifest's name is no model's name; nothing is stored.
        """
        incoming = [Incoming(version.digest, version.raw(), version.manifest) for version in versions]
        return [info for info, _ in self.put_incoming(incoming)]

    def put_incoming(self, versions: Sequence[Incoming]) -> list[tuple[VersionInfo, bool]]:
        """The same for parts; tells of each whether it is new. Nothing is checked here but names.

        Raises:
            BadName: a manifest's name is no model's name; nothing is stored.
        """
        for version in versions:
            check_name(version.manifest.name)
        self.uuid()
        found: list[tuple[VersionInfo, bool]] = []
        for chunk in _chunks(versions, PUT_CHUNK):
            replies = self._round_trip(chunk, self._put)
            for version, (number, created, new) in zip(chunk, replies, strict=True):
                info = VersionInfo(version.digest, version.manifest.name, int(number), int(created))
                found.append((info, new == b"1"))
        return found

    def _put(self, pipe: Pipeline, version: Incoming) -> None:
        name, digest, keys = version.manifest.name, version.digest, self.keys
        model = ModelName.parse(name)
        touched = [*index_keys(keys, digest), keys.model(name), keys.models, keys.versions]
        arguments = [*index_arguments(keys, digest), name, digest, model.series, model.target]
        arguments.append(trained_cell(version.manifest))
        for words in (metric_cells(version.manifest), [word for pair in version.tags.items() for word in pair]):
            arguments += (str(len(words)), *words)
        arguments += ("parts", version.raw.parts)
        arguments += ("manifest", compress(version.raw.manifest))
        arguments += ("serving", version.raw.serving)
        arguments += ("forest", version.raw.forest)
        arguments += ("ubj", compress(version.raw.ubj))
        pipe.eval(self._put_script, len(touched), *touched, *cast(list[str], arguments))

    def names(self, prefix: str = "") -> list[str]:
        """Names of the models that begin with `prefix`, sorted."""
        found = cast(list[bytes], self.client.zrangebylex(self.keys.models, *beginning(prefix)))
        return [name.decode() for name in found]

    def count(self) -> int:
        """How many versions the store holds."""
        return self.client.zcard(self.keys.versions)

    def versions(self, name: str) -> list[VersionInfo]:
        """The versions of a model, in the order of their numbers; none for a model that is not there."""
        fields = cast(dict[bytes, bytes], self.client.hgetall(self.keys.model(name)))
        numbered = sorted((int(number), digest.decode()) for number, digest in fields.items() if number != b"last")
        found = self.infos([digest for _, digest in numbered])
        return [info for info in found if info is not None]

    def infos(self, digests: Sequence[str]) -> list[VersionInfo | None]:
        """What the store says of many versions; `None` for one that is not there."""
        found: list[VersionInfo | None] = []
        for chunk in _chunks(digests, READ_CHUNK):
            replies = self._round_trip(
                chunk, lambda pipe, digest: pipe.hmget(self.keys.version(digest), "name", "number", "created")
            )
            found += [_info(digest, reply) for digest, reply in zip(chunk, replies, strict=True)]
        return found

    def info(self, digest: str) -> VersionInfo:
        """What the store says of one version.

        Raises:
            NotFound: the store does not hold it.
        """
        found = self.infos([check_digest(digest)])[0]
        if found is None:
            raise self._missing(digest)
        return found

    def manifest(self, digest: str) -> Manifest:
        """The manifest of a version, checked against the digest.

        Raises:
            NotFound: the store does not hold the version.
            BadModel: it is damaged.
        """
        parts, frame = self._fields(digest, "parts", "manifest")
        return _manifest(digest, parts, frame)

    def forest(self, digest: str) -> bytes:
        """The packed trees of a version, checked against the digest.

        Raises:
            NotFound: the store does not hold the version.
            BadModel: it is damaged.
        """
        parts, forest = self._fields(digest, "parts", "forest")
        check_parts(digest, parts, forest=forest)
        return forest

    def ubj(self, digest: str) -> bytes:
        """The XGBoost model of a version, checked against the digest. Damaged UBJ can crash XGBoost; this is checked.

        Raises:
            NotFound: the store does not hold the version.
            BadModel: it is damaged.
        """
        parts, frame = self._fields(digest, "parts", "ubj")
        ubj = decompress(frame, MAX_UBJ, f"the ubj of version {digest[:12]}")
        check_parts(digest, parts, ubj=ubj)
        return ubj

    def verify(self, digest: str) -> VersionInfo:
        """Check everything that is stored of a version: every part, and that the parts agree with each other.

        The XGBoost model is compared with its hash, not opened.

        Raises:
            NotFound: the store does not hold the version.
            BadModel: it is damaged; the message says what.
        """
        info = self.info(digest)
        parts, frame, serving, forest = self._fields(digest, "parts", "manifest", "serving", "forest")
        manifest = _manifest(digest, parts, frame)
        check_parts(digest, parts, serving=serving, forest=forest)
        check_agreement(digest, manifest, serving, forest)
        self.ubj(digest)
        if manifest.name != info.name:
            raise BadModel(f"version {digest[:12]} is stored as {info.name} and is {manifest.name}")
        if self.client.hget(self.keys.model(info.name), str(info.number)) != digest.encode():
            raise BadModel(f"version {digest[:12]} is not number {info.number} of {info.name}")
        return info

    def load_serving(self, digests: Sequence[str]) -> Iterator[ServingBlobs | None]:
        """What scorers need of many versions, in their order; `None` for one that is not there or lacks a field.

        The blobs are not checked: whoever loads thousands reports the bad ones and goes on with the rest.
        """
        return read_serving(self.client, self.keys, digests)

    def resolve(self, ref: VersionRef | str) -> str:
        """The digest that a reference means; see `modelstore.names` for the forms.

        Raises:
            BadName: the text refers to no version.
            NotFound: there is no such version, or several digests begin so.
        """
        return resolve(self.client, self.keys, VersionRef.parse(ref) if isinstance(ref, str) else ref)

    def uuid(self) -> str:
        """The identity of this store, made now if it has none; a store that was emptied gets another."""
        found = self.find_uuid()
        if found is None:
            self.client.hsetnx(STORE, "uuid", uuid.uuid4().hex)
            found = self.find_uuid()
        if found is None:
            raise NotFound("the store's uuid vanished as soon as it was written: is somebody emptying this Redis?")
        return found

    def find_uuid(self) -> str | None:
        """The identity of this store, or `None` if it has none yet: for those who may only read."""
        found = cast(bytes | None, self.client.hget(STORE, "uuid"))
        return found.decode() if found is not None else None

    def _fields(self, digest: str, *names: str) -> list[bytes]:
        found = cast(list[bytes | None], self.client.hmget(self.keys.version(check_digest(digest)), names))
        if all(value is None for value in found):
            raise self._missing(digest)
        for name, value in zip(names, found, strict=True):
            if value is None:
                raise BadModel(f"version {digest[:12]} is damaged: it has no field {name}")
        return cast(list[bytes], found)

    def _missing(self, digest: str) -> NotFound:
        return NotFound(f"the store holds no version {digest[:12]}; `red10 model list` shows what it holds")

    def _round_trip(self, items: Sequence[T], add: Callable[[Pipeline, T], object]) -> list[Any]:
        with self.client.pipeline(transaction=False) as pipe:
            for item in items:
                add(pipe, item)
            return pipe.execute()


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _info(digest: str, reply: Sequence[bytes | None]) -> VersionInfo | None:
    name, number, created = reply
    if name is None or number is None or created is None:
        return None
    return VersionInfo(digest, name.decode(), int(number), int(created))


def _manifest(digest: str, parts: bytes, frame: bytes) -> Manifest:
    raw = decompress(frame, MAX_MANIFEST, f"the manifest of version {digest[:12]}")
    check_parts(digest, parts, manifest=raw)
    return read_manifest(raw, digest)

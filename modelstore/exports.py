"""From a store to an export: what is meant, and writing it. The format: `modelstore.export_format`.

Versions are read some at a time and twice, once for the manifest, which comes first, and once for their bytes; so a
hundred thousand need no more memory than thirty. What is read is checked against its digest before it is written. A
version that is removed meanwhile ends the export with an error, and nothing is left of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, cast

import redis
import zstandard

from modelstore.compression import decompress
from modelstore.errors import BadModel, NotFound
from modelstore.export_format import LIMITS, Contents, ExportedVersion, ExportWriter, Member, member_path
from modelstore.names import VersionRef
from modelstore.release import Aliases, AliasKey
from modelstore.releases import Releases
from modelstore.tags import Tags
from modelstore.version import PARTS, RawVersion, check_parts
from modelstore.versions import VersionStore
from streams.errors import BadName
from streams.keys import Keys

#: Versions per round trip: some 4 MB before compression.
CHUNK = 30

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Selection:
    """What to export. Attributes as of `modelstore.export_format.Contents`."""

    kind: Literal["version", "model", "series", "release"]
    of: str
    digests: Sequence[str] = field(repr=False)
    aliases: Aliases = field(repr=False)


def select(store: VersionStore, releases: Releases, what: str, *, every: bool = False) -> Selection:
    """Find out what is meant.

    Args:
        what: a series or table (the champions of its models), a model (its champion), or a reference to one version.
        every: of a series or model, every version instead.

    Raises:
        BadName: the text means none of these.
        NotFound: there is nothing of it.
    """
    current = releases.current()
    aliases: Aliases = releases.get(current.id).aliases if current is not None else {}
    names = [name for name in store.names(f"{what}/") if name.rpartition("/")[0] == what]
    if names:
        return _of_models(store, "series", what, names, aliases, every)
    try:
        ref = VersionRef.parse(what)
    except BadName as error:
        raise BadName(f"{error}; the store has no models of a series or table {what[:80]!r} either") from None
    if ref.name is not None and every:
        return _of_models(store, "model", str(ref.name), [str(ref.name)], aliases, every)
    digest = store.resolve(ref)
    kind: Literal["model", "version"] = "model" if what == str(ref.name) else "version"
    return Selection(kind, what if kind == "model" else digest, [digest], _pointing(aliases, {digest}))


def select_release(releases: Releases, text: str) -> Selection:
    """The release with this number or beginning of its id; an empty text means the one in force.

    Raises:
        NotFound: there is none.
        BadModel: it is damaged.
    """
    current = releases.current()
    if not text and current is None:
        raise NotFound("no release is in force yet: the first training makes one (`red10 train SERIES`)")
    found = releases.get(releases.find(text) if text else current.id if current is not None else "")
    return Selection("release", found.id, sorted(set(found.aliases.values())), found.aliases)


def _of_models(
    store: VersionStore, kind: Literal["series", "model"], of: str, names: Sequence[str], aliases: Aliases, every: bool
) -> Selection:
    if every:
        digests = {info.digest for name in names for info in store.versions(name)}
    else:
        digests = {digest for (name, alias), digest in aliases.items() if alias == "champion" and name in set(names)}
    if not digests:
        raise NotFound(
            f"{of} has no champion: name a version ({of}@latest), or every version (--all)"
            if not every
            else f"the store holds no version of {of}; `red10 model list` shows what it holds"
        )
    return Selection(kind, of, sorted(digests), _pointing(aliases, digests))


def _pointing(aliases: Aliases, digests: set[str]) -> dict[AliasKey, str]:
    return {key: digest for key, digest in aliases.items() if digest in digests}


def write_export(
    client: redis.Redis, keys: Keys, selection: Selection, file: BinaryIO, progress: Progress | None = None
) -> Contents:
    """Write versions, their tags and the aliases that point at them.

    Args:
        progress: told of versions written, and of how many there are.

    Raises:
        NotFound: a version is not there.
        BadModel: a version is damaged; the file is no whole export then.
    """
    digests = sorted(selection.digests)
    contents = _contents(client, keys, selection, digests)
    writer = ExportWriter(file)
    writer.begin(contents)
    sizes = {member.path: member.size for member in contents.members}
    for done, (digest, fields) in enumerate(read_fields(client, keys, digests, ("parts", *PARTS)), 1):
        raw = raw_of(digest, fields)
        for part in PARTS:
            data, path = cast(bytes, getattr(raw, part)), member_path(digest, part)
            if len(data) != sizes[path]:
                raise BadModel(f"version {digest[:12]} is damaged: its {part} announces another size than it has")
            writer.member(path, data)
        if progress is not None:
            progress(done, len(digests))
    writer.end()
    return contents


def _contents(client: redis.Redis, keys: Keys, selection: Selection, digests: Sequence[str]) -> Contents:
    tags = Tags(client, keys)
    versions: list[ExportedVersion] = []
    members: list[Member] = []
    for digest, fields in read_fields(client, keys, digests, ("parts", "name", *PARTS)):
        versions.append(ExportedVersion(digest=digest, name=fields["name"].decode(), tags=tags.of([digest])[0]))
        check_parts(digest, fields["parts"])
        for at, part in enumerate(PARTS):
            size = _size(digest, part, fields[part])
            hashed = fields["parts"][32 * at : 32 * at + 32].hex()
            members.append(Member(path=member_path(digest, part), size=size, sha256=hashed))
    aliases = sorted((name, alias, digest) for (name, alias), digest in selection.aliases.items())
    return Contents(kind=selection.kind, of=selection.of, aliases=aliases, versions=versions, members=members)


def _size(digest: str, part: str, stored: bytes) -> int:
    """Bytes of a part before compression."""
    if part not in ("manifest", "ubj"):
        return len(stored)
    try:
        return int(zstandard.frame_content_size(stored))
    except zstandard.ZstdError as error:
        raise BadModel(f"the {part} of version {digest[:12]} is damaged: {error}") from error


def raw_of(digest: str, fields: Mapping[str, bytes]) -> RawVersion:
    """The parts of a version from its fields, `parts` among them, checked against its digest.

    Raises:
        BadModel: it is damaged.
    """
    raw = RawVersion(
        manifest=decompress(fields["manifest"], LIMITS["manifest"], f"the manifest of version {digest[:12]}"),
        serving=fields["serving"],
        forest=fields["forest"],
        ubj=decompress(fields["ubj"], LIMITS["ubj"], f"the ubj of version {digest[:12]}"),
    )
    check_parts(digest, fields["parts"], manifest=raw.manifest, serving=raw.serving, forest=raw.forest, ubj=raw.ubj)
    return raw


def read_fields(
    client: redis.Redis, keys: Keys, digests: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Fields of versions, in their order, read some versions at a time.

    Raises:
        NotFound: a version is not there.
        BadModel: it lacks a field.
    """
    for start in range(0, len(digests), CHUNK):
        chunk = digests[start : start + CHUNK]
        with client.pipeline(transaction=False) as pipe:
            for digest in chunk:
                pipe.hmget(keys.version(digest), *names)
            replies: list[list[Any]] = pipe.execute()
        for digest, values in zip(chunk, replies, strict=True):
            if all(value is None for value in values):
                raise NotFound(f"version {digest[:12]} is not in the store (any more)")
            for name, value in zip(names, values, strict=True):
                if value is None:
                    raise BadModel(f"version {digest[:12]} is damaged: it has no field {name}")
            yield digest, dict(zip(names, values, strict=True))

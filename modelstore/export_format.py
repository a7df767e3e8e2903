"""The form in which versions travel: one file with a manifest that lists every byte of it.

An export is one zstd frame around a tar archive (POSIX ustar, no extensions), so `tar --zstd -xf` unpacks it:

    manifest.json          what follows, as `Contents`: JSON with sorted keys
    DIGEST/manifest.json   of each version, in the order of their digests: its four parts as they are hashed
    DIGEST/serving.bin
    DIGEST/forest.bin
    DIGEST/model.ubj

Nothing in it depends on when or where it was made, nor on how a store numbers or compresses: the same versions, tags
and aliases give the same tar, and with the same zstd library the same file. `docs/protocol.md` has the fields.

A reader takes nothing on trust. The manifest comes first, is bounded, and must list exactly the members of the versions
that it names, each with a size and hash; the hashes of a version's parts must give its digest. From then on every
header of the tar must be, byte for byte, the one that the manifest implies. So there are no names, links or sizes to be
fooled by, and never more is taken out of the frame than the manifest has announced, within `MAX_BYTES`.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Literal, cast

import orjson
import zstandard
from pydantic import BaseModel, ConfigDict, ValidationError

from modelstore.compression import LEVEL
from modelstore.errors import BadExport
from modelstore.manifest import MAX_MANIFEST
from modelstore.names import MAX_TAGS, check_alias, check_digest, check_name, parse_tag
from modelstore.release import release_id
from modelstore.version import PARTS, digest_of
from streams.errors import BadName

FORMAT = "red10 export 1"
MANIFEST = "manifest.json"
#: Part -> the name of its member.
FILES: Mapping[str, str] = {
    "manifest": "manifest.json",
    "serving": "serving.bin",
    "forest": "forest.bin",
    "ubj": "model.ubj",
}
#: Most bytes of each part, and of an export as a whole, before compression.
LIMITS: Mapping[str, int] = {"manifest": MAX_MANIFEST, "serving": 2**21, "forest": 2**28, "ubj": 2**30}
MAX_BYTES = 64 * 2**30
#: Most bytes of the export's manifest: some 200,000 versions.
MAX_CONTENTS = 256 * 2**20
#: Largest window of the frame that is decompressed.
MAX_WINDOW = 2**23
#: Bytes that are taken out of the frame at a time, and that are put into it. It gives 32,768 times its input at most.
READ, FEED = 2**18, 512

_BLOCK = 512
_END = bytes(2 * _BLOCK)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Member(_Strict):
    """One file of the archive."""

    path: str
    size: int
    sha256: str


class ExportedVersion(_Strict):
    """One version: `tags` are key -> value, "" for a word."""

    digest: str
    name: str
    tags: dict[str, str] = {}


class Contents(_Strict):
    """The manifest of an export.

    Attributes:
        format: `FORMAT`.
        kind: what was asked for.
        of: the name of it: a version's or model's name, a series, or the id of a release.
        aliases: [name, alias, digest] of the aliases that pointed at the versions, sorted; of a release all it has.
        versions: by digest.
        members: every other file, in the order of the archive.
    """

    format: Literal["red10 export 1"] = "red10 export 1"
    kind: Literal["version", "model", "series", "release"]
    of: str
    aliases: list[tuple[str, str, str]]
    versions: list[ExportedVersion]
    members: list[Member]

    def canonical(self) -> bytes:
        """The manifest as it is written."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)

    def alias_map(self) -> dict[tuple[str, str], str]:
        """(name, alias) -> digest."""
        return {(name, alias): digest for name, alias, digest in self.aliases}


def member_path(digest: str, part: str) -> str:
    """Where a part of a version lies in an export."""
    return f"{digest}/{FILES[part]}"


def read_contents(raw: bytes) -> Contents:
    """Read the manifest of an export and check that it is consistent with itself.

    Raises:
        BadExport: it is not.
    """
    try:
        contents = Contents.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise BadExport(f"its manifest is none of `{FORMAT}`: {where}: {first['msg']}") from None
    try:
        _check_versions(contents)
        _check_subject(contents)
        _check_aliases(contents)
    except BadName as error:
        raise BadExport(f"its manifest is wrong: {error}") from error
    if contents.canonical() != raw:
        raise BadExport("its manifest is not written as Red10 writes it")
    return contents


def _check_versions(contents: Contents) -> None:
    digests = [check_digest(version.digest) for version in contents.versions]
    if digests != sorted(set(digests)):
        raise BadExport("its manifest names versions twice or out of order")
    for version in contents.versions:
        check_name(version.name)
        if len(version.tags) > MAX_TAGS:
            raise BadExport(f"its manifest gives version {version.digest[:12]} {len(version.tags)} tags")
        for key, value in version.tags.items():
            if parse_tag(f"{key}={value}" if value else key) != (key, value):
                raise BadExport(f"its manifest gives version {version.digest[:12]} a tag that is none: {key[:64]!r}")
    paths = [member_path(digest, part) for digest in digests for part in PARTS]
    if [member.path for member in contents.members] != paths:
        raise BadExport("its manifest does not list the parts of its versions, each once and in order")
    for at, digest in enumerate(digests):
        members = contents.members[at * len(PARTS) : (at + 1) * len(PARTS)]
        for part, member in zip(PARTS, members, strict=True):
            if not 0 <= member.size <= LIMITS[part]:
                raise BadExport(f"{member.path} has {member.size} bytes, up to {LIMITS[part]} are possible")
        hashes = b"".join(bytes.fromhex(check_digest(member.sha256)) for member in members)
        if digest_of(hashes) != digest:
            raise BadExport(f"the parts of version {digest[:12]} do not give its digest")
    total = sum(member.size for member in contents.members)
    if total > MAX_BYTES:
        raise BadExport(f"it announces {total} bytes, up to {MAX_BYTES} are possible")


def _check_subject(contents: Contents) -> None:
    """Check that every version is of what the manifest says the export is of."""
    for version in contents.versions:
        subject = {
            "version": version.digest,
            "model": version.name,
            "series": version.name.rpartition("/")[0],
            "release": contents.of,
        }
        if subject[contents.kind] != contents.of:
            raise BadExport(
                f"its manifest says {contents.kind} {contents.of[:160]} and names {version.name}, which is not of it"
            )


def _check_aliases(contents: Contents) -> None:
    names = {version.digest: version.name for version in contents.versions}
    keys = [(name, alias) for name, alias, _ in contents.aliases]
    if keys != sorted(set(keys)):
        raise BadExport("its manifest names aliases twice or out of order")
    for name, alias, digest in contents.aliases:
        check_alias(alias)
        if names.get(digest) != name:
            raise BadExport(f"its manifest points {name[:160]}@{alias} at version {digest[:12]}, which is not in it")
    if contents.kind == "release" and release_id(contents.alias_map()) != contents.of:
        raise BadExport(f"its aliases do not make release {contents.of[:12]}")


def header(path: str, size: int) -> bytes:
    """The tar header of a member."""
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def padding(size: int) -> bytes:
    """What fills a member up to whole blocks."""
    return bytes(-size % _BLOCK)


class ExportWriter:
    """Writes an export to a binary file: `begin`, then the members in order, then `end`."""

    def __init__(self, file: BinaryIO) -> None:
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self._frame = compressor.stream_writer(file, closefd=False)

    def begin(self, contents: Contents) -> None:
        """Write the manifest."""
        self.member(MANIFEST, contents.canonical())

    def member(self, path: str, data: bytes) -> None:
        """Write one file."""
        self._frame.write(header(path, len(data)) + data + padding(len(data)))

    def end(self) -> None:
        """Complete the frame; the file stays open."""
        self._frame.write(_END)
        cast(BinaryIO, self._frame).close()


class ExportReader:
    """Reads an export from a binary file, from its first byte to its last, in order.

    Attributes:
        contents: its manifest, checked.

    Raises:
        BadExport: at any step: the file is no export, damaged, cut off, or goes on behind its end.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()
        self._buffer = bytearray()
        block = self._take(_BLOCK)
        try:
            size = int(block[124:135], 8)
        except ValueError:
            raise BadExport("it does not begin with a manifest") from None
        if block != header(MANIFEST, size):
            raise BadExport("it does not begin with a manifest")
        if size > MAX_CONTENTS:
            raise BadExport(f"its manifest has {size} bytes, up to {MAX_CONTENTS} are possible")
        self.contents = read_contents(b"".join(self._data(size)))

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """The members in order, each with its bytes in pieces; these must be taken to their end before the next one.

        The hash is checked after the last piece.
        """
        for member in self.contents.members:
            if self._take(_BLOCK) != header(member.path, member.size):
                raise BadExport(f"where {member.path} should begin stands something else")
            yield member, self._checked(member)
        if self._take(len(_END)) != _END:
            raise BadExport("it goes on where it should end")
        self._expect_end()

    def _checked(self, member: Member) -> Iterator[bytes]:
        found = hashlib.sha256()
        for piece in self._data(member.size):
            found.update(piece)
            yield piece
        if found.hexdigest() != member.sha256:
            raise BadExport(f"{member.path} is not what the manifest says it is")

    def _data(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            piece = self._take(min(left, READ))
            left -= len(piece)
            yield piece
        if any(self._take(-size % _BLOCK)):
            raise BadExport("it holds something between its members")

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._fill():
                raise BadExport("it ends too early")
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    def _fill(self) -> bool:
        """Decompress some more; `False` at the end of the frame or file."""
        if self._frame.eof:
            return False
        fed = self._file.read(FEED)
        if not fed:
            return False
        try:
            self._buffer += self._frame.decompress(fed)
        except zstandard.ZstdError as error:
            raise BadExport(f"its compression is damaged ({error})") from error
        return True

    def _expect_end(self) -> None:
        while not self._buffer and self._fill():
            pass
        if not self._frame.eof:
            raise BadExport("it ends too early" if not self._buffer else "it goes on where it should end")
        if self._buffer or self._frame.unused_data or self._file.read(1):
            raise BadExport("it goes on where it should end")

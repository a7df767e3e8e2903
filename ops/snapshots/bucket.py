"""Objects of any store that speaks S3, read and written so that what is broken off goes on where it was.

Uploads are in parts, each with its MD5 for the store to check. Which upload it is, is kept in a note beside the file,
so that the next command goes on with it. Downloads go on at the byte that came last, and must not be too slow.

Each request is tried as often as the options say, with growing pauses (boto3 does that), where the store refuses for
now, is silent, or closes the connection; a download that breaks off is tried as often without getting any further.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from modelstore.s3 import S3Options, error_code, make_client, missing, s3_errors
from ops.errors import ArchiveError
from ops.snapshots.files import Progress, write_file

_CHUNK = 1 << 20
#: A store that sends less than this for the length of its time-out, bytes a second, counts as one that is silent.
LEAST_BYTES_S = 10_000
#: Most parts of an upload that S3 takes.
_MOST_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket.

    Attributes:
        encryption: what the store is asked to encrypt new objects with; `none` leaves that to the bucket.
        kms_key: the key of `aws:kms`; `None`: the account's.
        part_bytes: size of the parts of an upload; what is not larger is uploaded as a whole.
    """

    name: str
    options: S3Options
    encryption: Literal["none", "AES256", "aws:kms"] = "none"
    kms_key: str | None = None
    part_bytes: int = 16 << 20
    _made: list[Any] = field(default_factory=list, repr=False, compare=False)

    def url(self, key: str) -> str:
        """The URL of an object."""
        return f"s3://{self.name}/{key}"

    def objects(self, prefix: str) -> Iterator[tuple[str, int, int]]:
        """Keys that begin so, the sizes of their objects, and when they were written, epoch ms.

        Raises:
            ArchiveError: the bucket cannot be listed.
        """
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
            for page in pages:
                # Whatever answers 200 and is no store would pass for an empty one otherwise.
                if "IsTruncated" not in page:
                    raise ArchiveError(f"{self.url(prefix)}: what answers is no store of objects: look at s3_endpoint")
                for one in page.get("Contents", ()):
                    yield one["Key"], one["Size"], int(one["LastModified"].timestamp() * 1000)

    def uploads(self, prefix: str) -> Iterator[tuple[str, str, int]]:
        """Uploads in parts that were not completed: key, id, and when they were begun, epoch ms.

        Raises:
            ArchiveError: the store does not say.
        """
        with self._errors(prefix):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=prefix)
            for one in (one for page in pages for one in page.get("Uploads", ())):
                yield one["Key"], one["UploadId"], int(one["Initiated"].timestamp() * 1000)

    def abort(self, key: str, upload: str) -> None:
        """Give an upload in parts up, if there is one of this id: the store drops its parts.

        Raises:
            ArchiveError: the store refuses.
        """
        with self._errors(key):
            try:
                self._client.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload)
            except Exception as error:
                if error_code(error) != "NoSuchUpload" and not missing(error):
                    raise

    def read(self, key: str, most: int) -> bytes | None:
        """A small object of at most so many bytes; `None` if there is none.

        Raises:
            ArchiveError: it cannot be read, or is larger.
        """
        with self._errors(key):
            tries = 0
            while True:
                try:
                    found = bytearray()
                    with closing(self._client.get_object(Bucket=self.name, Key=key)["Body"]) as body:
                        for data in self._pieces(body, key):
                            found += data
                            if len(found) > most:
                                raise ArchiveError(f"{self.url(key)} is larger than it can be")
                    return bytes(found)
                except Exception as error:
                    if missing(error):
                        return None
                    tries += 1
                    if not _broken(error) or tries >= self.options.attempts:
                        raise

    def put(self, key: str, data: bytes, kind: str = "application/json", **more: Any) -> None:
        """Write an object.

        Raises:
            ArchiveError: the store refuses.
        """
        with self._errors(key):
            self._client.put_object(
                Bucket=self.name,
                Key=key,
                Body=data,
                ContentType=kind,
                ContentMD5=_md5(data),
                **self._encryption(),
                **more,
            )

    def delete(self, key: str) -> None:
        """Remove an object, if it is there.

        Raises:
            ArchiveError: the store refuses.
        """
        with self._errors(key):
            self._client.delete_object(Bucket=self.name, Key=key)

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """Whether an object of this size was uploaded as one with this hash.

        Raises:
            ArchiveError: the store does not say.
        """
        with self._errors(key):
            try:
                head = self._client.head_object(Bucket=self.name, Key=key)
            except Exception as error:
                if missing(error):
                    return False
                raise
        return bool(head["ContentLength"] == size and head["Metadata"].get("sha256") == sha256)

    def upload(self, path: Path, key: str, sha256: str, note: Path, progress: Progress | None = None) -> None:
        """Make a file's bytes an object that carries their hash; goes on with an upload that the note names.

        The caller removes the note when all is done.

        Raises:
            ArchiveError: the store refuses, or what stands there is something else in the end.
            OSError: the file cannot be read.
        """
        size, kind = path.stat().st_size, "application/octet-stream"
        if size <= self.part_bytes:
            self.put(key, path.read_bytes(), kind, Metadata={"sha256": sha256})
        else:
            with self._errors(key):
                self._upload_parts(path, size, key, sha256, note, progress)
        if not self.holds(key, size, sha256):
            raise ArchiveError(f"{self.url(key)} is not what was uploaded: did somebody else write it? Archive again")

    def download(self, key: str, path: Path, size: int, progress: Progress | None = None) -> None:
        """Write so many bytes of an object to a file, from where the file ends.

        Raises:
            ArchiveError: the object cannot be read, or is shorter.
            OSError: the file cannot be written.
        """
        with open(path, "ab", buffering=0) as file, self._errors(key):
            if file.tell() > size:
                file.truncate(0)
            tries = 0
            while (have := os.fstat(file.fileno()).st_size) < size:
                broken: Exception | None = None
                try:
                    found = self._client.get_object(Bucket=self.name, Key=key, Range=f"bytes={have}-{size - 1}")
                    with closing(found["Body"]) as body:
                        for data in self._pieces(body, key):
                            file.write(data)
                            if progress is not None:
                                progress(os.fstat(file.fileno()).st_size, size)
                except Exception as error:
                    if not _broken(error):
                        raise
                    broken = error
                further = os.fstat(file.fileno()).st_size > have and not isinstance(broken, _TooSlow)
                tries = 0 if further else tries + 1
                if tries >= self.options.attempts:
                    if broken is not None:
                        raise broken
                    raise ArchiveError(f"{self.url(key)} is shorter than its manifest says")
            os.fsync(file.fileno())

    def _pieces(self, body: Any, key: str) -> Iterator[bytes]:
        """An answer's bytes as they come: `read` waits for all that it was asked for, however slowly they drip.

        Raises:
            ResponseStreamingError: the answer broke off.
            _TooSlow: it comes too slowly.
        """
        from botocore.exceptions import ResponseStreamingError
        from urllib3.exceptions import HTTPError

        began, come = time.monotonic(), 0
        # urllib3 has `read1` since 2.2.
        read = getattr(body._raw_stream, "read1", body.read)
        try:
            while data := read(_CHUNK):
                yield data
                come += len(data)
                took = time.monotonic() - began
                if took >= self.options.timeout_s:
                    if come < LEAST_BYTES_S * took:
                        raise _TooSlow(f"{self.url(key)}: only {come} bytes came within {took:.1f} s")
                    began, come = time.monotonic(), 0
        except HTTPError as error:
            raise ResponseStreamingError(error=error) from error

    @property
    def _client(self) -> Any:
        if not self._made:
            self._made.append(make_client(self.options))
        return self._made[0]

    def _errors(self, key: str) -> AbstractContextManager[None]:
        return s3_errors(self.url(key), ArchiveError)

    def _encryption(self) -> dict[str, str]:
        if self.encryption == "none":
            return {}
        key = {"SSEKMSKeyId": self.kms_key} if self.encryption == "aws:kms" and self.kms_key else {}
        return {"ServerSideEncryption": self.encryption, **key}

    def _upload_parts(
        self, path: Path, size: int, key: str, sha256: str, note: Path, progress: Progress | None
    ) -> None:
        part_bytes = max(self.part_bytes, -(-size // _MOST_PARTS))
        about = {"bucket": self.name, "key": key, "sha256": sha256, "part_bytes": part_bytes}
        upload, there = self._begun(key, note, about)
        if upload is None:
            begun = self._client.create_multipart_upload(
                Bucket=self.name,
                Key=key,
                ContentType="application/octet-stream",
                Metadata={"sha256": sha256},
                **self._encryption(),
            )
            upload = str(begun["UploadId"])
            write_file(note, orjson.dumps(about | {"upload": upload}))
        parts = []
        with open(path, "rb") as file:
            for number, start in enumerate(range(0, size, part_bytes), 1):
                length = min(part_bytes, size - start)
                known, tag = there.get(number, (0, ""))
                if known != length:
                    file.seek(start)
                    data = file.read(length)
                    part = {"PartNumber": number, "Body": data, "ContentMD5": _md5(data)}
                    tag = self._client.upload_part(Bucket=self.name, Key=key, UploadId=upload, **part)["ETag"]
                parts.append({"PartNumber": number, "ETag": tag})
                if progress is not None:
                    progress(start + length, size)
        self._client.complete_multipart_upload(
            Bucket=self.name, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
        )

    def _begun(self, key: str, note: Path, about: dict[str, Any]) -> tuple[str | None, dict[int, tuple[int, str]]]:
        """The upload that was begun, and number -> (size, tag) of the parts that are there."""
        try:
            found = orjson.loads(note.read_bytes())
            upload = str(found.pop("upload"))
        except (OSError, orjson.JSONDecodeError, AttributeError, KeyError):
            return None, {}
        if found != about:
            # Of this file under other settings: nobody would come back to it.
            if (found.get("bucket"), found.get("key")) == (self.name, key):
                self.abort(key, upload)
            return None, {}
        try:
            pages = self._client.get_paginator("list_parts").paginate(Bucket=self.name, Key=key, UploadId=upload)
            parts = [part for page in pages for part in page.get("Parts", ())]
        except Exception as error:
            if error_code(error) == "NoSuchUpload" or missing(error):
                return None, {}
            raise
        return upload, {part["PartNumber"]: (part["Size"], part["ETag"]) for part in parts}


class _TooSlow(ArchiveError):
    """An answer comes so slowly that it counts as none."""


def _broken(error: Exception) -> bool:
    """Whether an answer broke off while it was read: boto3 tries again before it has begun, not afterwards."""
    from botocore.exceptions import BotoCoreError

    return isinstance(error, BotoCoreError | _TooSlow)


def _md5(data: bytes) -> str:
    """What S3 compares; no safety depends on it."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()

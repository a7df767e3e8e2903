"""An archive holds whole snapshots or none, whatever the store does meanwhile, and gives back what was put in."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from ops.errors import ArchiveError, Refused, SnapshotError
from ops.snapshots.archive import Archive
from ops.snapshots.files import hash_file
from ops.snapshots.manifest import id_of
from ops.snapshots.prune import DAY_MS, prune_archive
from ops.snapshots.shelf import Listed, Shelf, Snapshot, read_snapshot
from ops.snapshots.take import take
from ops.snapshots.verify import verify
from streams.errors import ConfigurationError
from streams.settings import Settings, load_settings
from tests.conftest import binary_of
from tests.objects import ObjectServer
from tests.ops.snapshots.flaky import Fault, FlakyStore, sound, times
from tests.ops.snapshots.made import fill, settings_of
from tests.servers import Server

PART = 5 << 20


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectServer]:
    server = ObjectServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def flaky(objects: ObjectServer) -> Iterator[FlakyStore]:
    store = FlakyStore(objects.url)
    yield store
    store.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A snapshot of three parts."""
    server = Server(binary_of("embedded")).start()
    try:
        with server.client() as client:
            fill(client)
            client.set("padding", os.urandom(11 << 20))
        return take(server.url, settings_of(tmp_path_factory.mktemp("large"), environment="staging"))
    finally:
        server.close()


@pytest.fixture
def bucket(objects: ObjectServer, flaky: FlakyStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a bucket of this test's own."""
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # The pauses between tries are boto3's and grow up to 20 s.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)
    name = f"b{os.urandom(4).hex()}"
    objects.client().create_bucket(Bucket=name)
    flaky.faults = sound
    flaky.seen.clear()
    yield name
    flaky.faults = sound


@pytest.fixture
def settings(bucket: str, flaky: FlakyStore, tmp_path: Path) -> Settings:
    return settings_of(
        tmp_path, archive=f"s3://{bucket}/red10", s3_endpoint=flaky.url, s3_part_mb=5, s3_attempts=3, s3_timeout_s=60
    )


@pytest.fixture
def own(large: Snapshot, tmp_path: Path) -> Snapshot:
    """The snapshot, in a directory that may be written to."""
    path = tmp_path / "own" / large.manifest.id
    path.mkdir(parents=True)
    for name in ("models.rdb", "manifest.json"):
        os.link(large.path / name, path / name)
    return read_snapshot(path)


def keys(objects: ObjectServer, bucket: str) -> dict[str, int]:
    found = objects.client().list_objects_v2(Bucket=bucket).get("Contents", ())
    return {one["Key"]: one["Size"] for one in found}


def uploads(objects: ObjectServer, bucket: str) -> int:
    return len(objects.client().list_multipart_uploads(Bucket=bucket).get("Uploads", ()))


def test_what_is_fetched_is_what_was_archived(
    own: Snapshot, settings: Settings, objects: ObjectServer, bucket: str
) -> None:
    verify(own, settings)
    archive, shelf = Archive.of(settings), Shelf.of(settings)
    told: list[tuple[int, int | None]] = []
    assert archive.put(own, lambda *at: told.append(at))
    assert not archive.put(own)
    manifest = own.manifest
    before = f"red10/staging/{manifest.id}/"
    found = keys(objects, bucket)
    assert set(found) == {before + name for name in ("models.rdb", "manifest.json", "report.json")}
    assert found[before + "models.rdb"] == manifest.size
    assert told == [(PART, manifest.size), (2 * PART, manifest.size), (manifest.size, manifest.size)]
    head = objects.client().head_object(Bucket=bucket, Key=before + "models.rdb")
    assert head["Metadata"]["sha256"] == manifest.sha256
    [listed] = archive.list()
    assert listed == Listed("staging", manifest.id, manifest.size, True)
    assert archive.find("latest", "staging") == archive.find(f"staging/{manifest.id[:8]}") == listed
    with pytest.raises(SnapshotError, match="snapshot list"):
        archive.find("latest", "production")
    fetched, fresh = archive.get(listed, shelf)
    assert fresh
    assert fetched.manifest == manifest
    assert hash_file(fetched.data) == manifest.sha256
    assert fetched.report.read_bytes() == own.report.read_bytes()
    assert archive.get(listed, shelf) == (fetched, False)
    whole = fetched.data.read_bytes()
    fetched.data.write_bytes(whole[:-1])
    with pytest.raises(SnapshotError, match="remove that directory"):
        archive.get(listed, shelf)
    fetched.data.unlink()
    with pytest.raises(SnapshotError, match="has 0 bytes"):
        archive.get(listed, shelf)
    fetched.data.write_bytes(whole)
    assert [path.name for path in fetched.path.parent.iterdir()] == [manifest.id]
    archive.remove("staging", manifest.id)
    assert keys(objects, bucket) == {}


def test_encryption_and_checksums_are_as_the_settings_say(
    own: Snapshot, settings: Settings, objects: ObjectServer, bucket: str, flaky: FlakyStore
) -> None:
    sent: list[Mapping[str, str]] = []

    def watch(method: str, path: str, headers: Mapping[str, str]) -> Fault | None:
        sent.append({name.lower(): value for name, value in headers.items()})
        return None

    flaky.faults = watch
    changed = settings.model_copy(update={"s3_encryption": "aws:kms", "s3_kms_key": "alias/mine"})
    Archive.of(changed).put(own)
    for name in ("models.rdb", "manifest.json"):
        head = objects.client().head_object(Bucket=bucket, Key=f"red10/staging/{own.manifest.id}/{name}")
        assert head["ServerSideEncryption"] == "aws:kms"
        assert "alias/mine" in head["SSEKMSKeyId"]
    assert not any("x-amz-checksum" in name or name == "x-amz-sdk-checksum-algorithm" for one in sent for name in one)
    Archive.of(settings).remove("staging", own.manifest.id)
    sent.clear()
    Archive.of(settings.model_copy(update={"s3_checksums": "when_supported"})).put(own)
    assert any("x-amz-checksum-crc32" in one or "x-amz-checksum-crc64nvme" in one for one in sent)


def impatient(settings: Settings, fault: Fault) -> Settings:
    """Where silence is the fault, it is not waited for long, nor often."""
    return settings.model_copy(update={"s3_timeout_s": 1.5, "s3_attempts": 2}) if fault == "silent" else settings


@pytest.mark.parametrize("fault", ["503", "close", "silent", "lost reply"])
def test_what_passes_is_tried_again(
    own: Snapshot, settings: Settings, objects: ObjectServer, bucket: str, flaky: FlakyStore, fault: Fault
) -> None:
    hasty = impatient(settings, fault)
    archive, attempts = Archive.of(hasty), hasty.s3_attempts
    flaky.silence_s = 2.0
    flaky.faults = times(attempts - 1, fault, "PUT", "partNumber=2")
    assert archive.put(own)
    assert sum("partNumber=2" in path for _, path in flaky.seen) == attempts
    assert sum("partNumber=1" in path for _, path in flaky.seen) == 1
    assert uploads(objects, bucket) == 0
    flaky.faults = times(attempts - 1, fault, "GET", "models.rdb")
    fetched, _ = archive.get(archive.find("latest"), Shelf.of(settings))
    assert hash_file(fetched.data) == own.manifest.sha256


@pytest.mark.parametrize(
    ("fault", "told"), [("503", "SlowDown"), ("close", "Connection was closed"), ("silent", "[Tt]imeout")]
)
def test_what_does_not_pass_is_a_clear_error_and_goes_on_later(
    own: Snapshot, settings: Settings, objects: ObjectServer, bucket: str, flaky: FlakyStore, fault: Fault, told: str
) -> None:
    hasty = impatient(settings, fault)
    archive = Archive.of(hasty)
    flaky.silence_s = 2.0
    flaky.faults = times(1000, fault, "PUT", "partNumber=2")
    with pytest.raises(ArchiveError, match=told) as caught:
        archive.put(own)
    assert f"s3://{bucket}/red10/staging/{own.manifest.id}/models.rdb" in str(caught.value)
    tried = sum("partNumber=2" in path for _, path in flaky.seen)
    assert tried == hasty.s3_attempts, "tried as often as s3_attempts says"
    assert keys(objects, bucket) == {}
    assert archive.list() == []
    flaky.faults = sound
    flaky.seen.clear()
    assert archive.put(own)
    assert not any("partNumber=1" in path for _, path in flaky.seen), "the first part is there already"
    assert uploads(objects, bucket) == 0
    assert [listed.id for listed in archive.list()] == [own.manifest.id]


@pytest.mark.parametrize(("method", "part"), [("POST", "models.rdb?uploadId"), ("PUT", "manifest.json")])
def test_a_store_that_goes_away_at_the_end_leaves_no_snapshot(
    own: Snapshot, settings: Settings, flaky: FlakyStore, method: str, part: str
) -> None:
    archive = Archive.of(settings)
    flaky.faults = times(1000, "503", method, part)
    with pytest.raises(ArchiveError):
        archive.put(own)
    assert archive.list() == []
    flaky.faults = sound
    assert archive.put(own)
    assert len(archive.list()) == 1


def test_a_download_that_is_cut_goes_on_where_it_was(own: Snapshot, settings: Settings, flaky: FlakyStore) -> None:
    archive, shelf = Archive.of(settings), Shelf.of(settings)
    archive.put(own)
    flaky.faults = times(2, "cut", "GET", "models.rdb")
    ranges: list[str] = []
    cut = flaky.faults

    def watch(method: str, path: str, headers: Mapping[str, str]) -> Fault | None:
        if "models.rdb" in path and "Range" in headers:
            ranges.append(headers["Range"])
        return cut(method, path, headers)

    flaky.faults = watch
    fetched, _ = archive.get(archive.find("latest"), shelf)
    assert hash_file(fetched.data) == own.manifest.sha256
    starts = [int(text.removeprefix("bytes=").split("-")[0]) for text in ranges]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] < starts[2]


def test_a_download_that_gets_no_further_is_an_error_and_goes_on_later(
    own: Snapshot, settings: Settings, flaky: FlakyStore
) -> None:
    archive, shelf = Archive.of(settings), Shelf.of(settings)
    archive.put(own)
    listed = archive.find("latest")
    cut = times(1, "cut", "GET", "models.rdb")
    flaky.faults = lambda *of: cut(*of) or ("503" if "models.rdb" in of[1] and of[0] == "GET" else None)
    with pytest.raises(ArchiveError, match="SlowDown"):
        archive.get(listed, shelf)
    assert shelf.list() == []
    [work] = (shelf.directory / "staging").glob(".fetching-*")
    assert (work / "models.rdb").stat().st_size > 0
    flaky.faults = sound
    fetched, _ = archive.get(listed, shelf)
    assert hash_file(fetched.data) == own.manifest.sha256
    assert not work.exists()


def test_a_store_that_refuses_checksums_works_unless_they_are_asked_for(
    own: Snapshot, settings: Settings, flaky: FlakyStore, objects: ObjectServer, bucket: str
) -> None:
    flaky.faults = lambda method, path, headers: "no checksums"
    with pytest.raises(ArchiveError, match="NotImplemented"):
        Archive.of(settings.model_copy(update={"s3_checksums": "when_supported"})).put(own)
    assert keys(objects, bucket) == {}
    assert Archive.of(settings).put(own)


def test_a_store_that_drips_is_given_up(own: Snapshot, settings: Settings, flaky: FlakyStore) -> None:
    """Each byte comes in time; all of them would take months."""
    Archive.of(settings).put(own)
    archive = Archive.of(settings.model_copy(update={"s3_timeout_s": 0.2, "s3_attempts": 2}))
    listed = archive.find("latest")
    flaky.faults = lambda *of: "drip" if of[0] == "GET" and "models.rdb" in of[1] else None
    with pytest.raises(ArchiveError, match=r"only \d+ bytes came"):
        archive.get(listed, Shelf.of(settings))
    flaky.faults = sound
    fetched, _ = Archive.of(settings).get(listed, Shelf.of(settings))
    assert hash_file(fetched.data) == own.manifest.sha256


def test_what_is_no_store_is_not_taken_for_an_empty_one(settings: Settings, flaky: FlakyStore) -> None:
    flaky.faults = lambda *of: "no store"
    with pytest.raises(ArchiveError, match="no store of objects"):
        Archive.of(settings).list()
    flaky.faults = lambda *of: "redirect"
    with pytest.raises(ArchiveError, match="redirects without end"):
        Archive.of(settings).list()
    for endpoint in ("http://me:secret@127.0.0.1", "ftp://127.0.0.1", "127.0.0.1:9000"):
        with pytest.raises(ConfigurationError, match="without user") as caught:
            load_settings(s3_endpoint=endpoint)
        assert "secret" not in str(caught.value)


def test_what_was_changed_in_the_archive_is_not_taken(
    own: Snapshot, settings: Settings, objects: ObjectServer, bucket: str
) -> None:
    archive, shelf = Archive.of(settings), Shelf.of(settings)
    archive.put(own)
    listed = archive.find("latest")
    key = f"red10/staging/{own.manifest.id}/"
    data = bytearray(own.data.read_bytes())
    data[5_000_000] ^= 1
    objects.client().put_object(Bucket=bucket, Key=key + "models.rdb", Body=bytes(data))
    with pytest.raises(ArchiveError, match="not what was archived"):
        archive.get(listed, shelf)
    objects.client().put_object(Bucket=bucket, Key=key + "models.rdb", Body=bytes(data[:-10]))
    with pytest.raises(ArchiveError, match=r"shorter|InvalidRange|not what"):
        archive.get(listed, shelf)
    raw = orjson.loads(own.manifest.encode())
    objects.client().put_object(Bucket=bucket, Key=key + "manifest.json", Body=b"{}")
    with pytest.raises(SnapshotError, match="no manifest"):
        archive.get(listed, shelf)
    objects.client().put_object(
        Bucket=bucket, Key=key + "manifest.json", Body=orjson.dumps(raw | {"environment": "production"})
    )
    with pytest.raises(ArchiveError, match="production"):
        archive.get(listed, shelf)
    assert shelf.list() == []
    with pytest.raises(ArchiveError, match="another snapshot"):
        archive.put(own)


def test_a_file_that_is_not_what_its_manifest_says_is_not_archived(
    own: Snapshot, settings: Settings, objects: ObjectServer, bucket: str
) -> None:
    data = bytearray(own.data.read_bytes())
    own.data.unlink()
    own.data.write_bytes(data[:-1] + b"!")
    with pytest.raises(Refused, match="snapshot verify"):
        Archive.of(settings).put(own)
    assert keys(objects, bucket) == {}


def test_data_that_the_archive_lost_is_uploaded_again(
    own: Snapshot, settings: Settings, objects: ObjectServer, bucket: str
) -> None:
    archive = Archive.of(settings)
    archive.put(own)
    key = f"red10/staging/{own.manifest.id}/models.rdb"
    objects.client().delete_object(Bucket=bucket, Key=key)
    assert not archive.holds("staging", own.manifest.id)
    assert archive.put(own)
    objects.client().put_object(Bucket=bucket, Key=key, Body=b"cut")
    assert archive.put(own)
    assert not archive.put(own)
    fetched, _ = archive.get(archive.find("latest"), Shelf.of(settings))
    assert hash_file(fetched.data) == own.manifest.sha256


def test_uploads_that_nobody_comes_back_to_are_given_up(
    own: Snapshot, settings: Settings, objects: ObjectServer, bucket: str, flaky: FlakyStore
) -> None:
    def broken(size_mb: int) -> None:
        flaky.faults = lambda *of: "503" if of[0] == "PUT" and "partNumber=2" in of[1] else None
        with pytest.raises(ArchiveError):
            Archive.of(settings.model_copy(update={"s3_part_mb": size_mb})).put(own)
        flaky.faults = sound

    broken(5)
    broken(6)
    assert uploads(objects, bucket) == 1, "the one in parts of another size was given up"
    (own.path / ".upload.json").unlink()
    objects.client().create_multipart_upload(Bucket=bucket, Key="red10/somebody/else")
    archive, said = Archive.of(settings), list[str]()
    begun_ms = max(begun_ms for _, _, begun_ms in archive.bucket.uploads(""))
    prune_archive(archive, [], begun_ms + 6 * DAY_MS, said.append)
    assert uploads(objects, bucket) == 2, "they may be under way"
    prune_archive(archive, [], begun_ms + 8 * DAY_MS, said.append)
    [left] = objects.client().list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert (left["Key"], said) == ("red10/somebody/else", [])
    flaky.faults = lambda *of: "503" if "uploads" in of[1] else None
    prune_archive(archive, [], begun_ms, said.append)
    assert "may be left" in said[0]


def test_what_was_promoted_since_it_was_listed_stays_in_the_archive(own: Snapshot, settings: Settings) -> None:
    archive = Archive.of(settings)
    archive.put(own)
    [listed] = archive.list()
    archive.write("staging", own.manifest.id, "promoted-production.json", b"{}")
    assert prune_archive(archive, [listed], 0, print) == []
    [listed] = archive.list()
    assert prune_archive(archive, [listed], 0, print) == [listed]
    assert archive.list() == []


def test_listing_takes_a_request_per_page_and_opens_nothing(
    settings: Settings, objects: ObjectServer, bucket: str, flaky: FlakyStore
) -> None:
    """A page has a thousand keys; here it has ten."""
    client: Any = objects.client()
    ids = [id_of(1_700_000_000_000 + 60_000 * number, f"{number:064x}"[::-1]) for number in range(25)]
    begun = id_of(0, "ab" * 32)
    names = [f"{snapshot}/{name}" for snapshot in ids for name in ("manifest.json", "models.rdb")]
    others = ["notes.txt", f"{ids[0]}/more/models.rdb", "99999999T000000Z-00000000/manifest.json"]
    for name in (*names, f"{begun}/models.rdb", *others):
        client.put_object(Bucket=bucket, Key=f"red10/staging/{name}", Body=b"x")
    archive = Archive.of(settings)
    archive.bucket._client.meta.events.register(
        "provide-client-params.s3.ListObjectsV2", lambda params, **_: params | {"MaxKeys": 10}
    )
    found = archive.list("staging")
    assert [listed.id for listed in found] == sorted(ids, reverse=True)
    assert [method for method, _ in flaky.seen] == ["GET"] * 6, "54 keys, ten at a time"
    assert all("list-type=2" in path for _, path in flaky.seen)
    now_ms = time.time_ns() // 1_000_000
    assert archive.unfinished("staging", now_ms + 8 * DAY_MS) == [("staging", begun)]
    assert archive.unfinished("staging", now_ms) == [], "of an old snapshot, but being uploaded"
    client.delete_object(Bucket=bucket, Key=f"red10/staging/{ids[3]}/models.rdb")
    assert archive.unfinished("staging", now_ms) == [("staging", ids[3])], "what has no data is being removed"


def test_without_an_archive_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="RED10_ARCHIVE"):
        Archive.of(settings_of(tmp_path))
    with pytest.raises(ConfigurationError, match="s3://BUCKET"):
        settings_of(tmp_path, archive="/somewhere")
    with pytest.raises(ConfigurationError, match="environment"):
        settings_of(tmp_path, environment="a/b")

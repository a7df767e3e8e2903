"""An export stands whole where it belongs, or not at all; an object is what was uploaded."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import redis

from modelstore.errors import BadExport, StorageError
from modelstore.exported import load_export
from modelstore.locations import reading, writing
from modelstore.s3 import S3Options
from modelstore.store import ModelStore
from streams.keys import Keys
from tests.modelstore.made import contents, fitted
from tests.objects import ObjectServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectServer]:
    server = ObjectServer()
    server.client().create_bucket(Bucket="models")
    yield server
    server.close()


@pytest.fixture
def s3(objects: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> S3Options:
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return S3Options(objects.url)


@pytest.fixture
def bucket(objects: ObjectServer) -> Any:
    """A client; the bucket is emptied."""
    client = objects.client()
    for found in client.list_objects_v2(Bucket="models").get("Contents", ()):
        client.delete_object(Bucket="models", Key=found["Key"])
    return client


@pytest.mark.parametrize("checksums", ["when_required", "when_supported"])
def test_an_object_arrives_as_it_was_sent(bucket: Any, objects: ObjectServer, s3: S3Options, checksums: Any) -> None:
    options = S3Options(objects.url, checksums)
    # Larger than what boto3 sends in one part.
    data = os.urandom(9 * 2**20)
    with writing("s3://models/a/b c.red10", s3=options) as file:
        file.write(data)
        assert bucket.list_objects_v2(Bucket="models").get("Contents") is None
    with reading("s3://models/a/b c.red10", s3=options) as file:
        assert file.read() == data
        file.seek(0)
        assert file.read() == data


def test_an_object_is_not_replaced_unless_asked_for(bucket: Any, s3: S3Options) -> None:
    bucket.put_object(Bucket="models", Key="k", Body=b"precious")
    with pytest.raises(StorageError, match="is there already"), writing("s3://models/k", s3=s3):
        pytest.fail("nothing is written")
    with writing("s3://models/k", replace=True, s3=s3) as file:
        file.write(b"new")
    with reading("s3://models/k", s3=s3) as file:
        assert file.read() == b"new"


def test_an_object_that_was_changed_behind_its_metadata_is_refused(bucket: Any, s3: S3Options) -> None:
    with writing("s3://models/k", s3=s3) as file:
        file.write(b"sent")
    metadata = bucket.head_object(Bucket="models", Key="k")["Metadata"]
    bucket.put_object(Bucket="models", Key="k", Body=b"other", Metadata=metadata)
    with pytest.raises(StorageError, match="is not what was uploaded"), reading("s3://models/k", s3=s3):
        pytest.fail("nothing is read")
    bucket.put_object(Bucket="models", Key="k", Body=b"from elsewhere")
    with reading("s3://models/k", s3=s3) as file:
        assert file.read() == b"from elsewhere"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("s3://models/none", "is not there"),
        ("s3://nobucket/k", "is not there"),
        ("s3://models", "no place for an export"),
        ("s3:///k", "no place for an export"),
        ("ftp://host/k", "no place for an export"),
    ],
)
def test_what_is_not_there_is_told(bucket: Any, s3: S3Options, place: str, told: str) -> None:
    with pytest.raises(StorageError, match=told), reading(place, s3=s3):
        pytest.fail("nothing is read")


def test_a_store_of_objects_that_is_away_is_told_without_secrets(
    s3: S3Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    away = S3Options("http://127.0.0.1:9")
    with (
        pytest.raises(StorageError, match=r"s3://models/k: .*127\.0\.0\.1:9") as told,
        reading("s3://models/k", s3=away),
    ):
        pytest.fail("nothing is read")
    assert "hush" not in str(told.value)
    with pytest.raises(StorageError, match="s3://nobucket/k"), writing("s3://nobucket/k", s3=s3) as file:
        file.write(b"x")


def test_models_travel_by_object(bucket: Any, s3: S3Options, client: redis.Redis) -> None:
    store, other = ModelStore(client, Keys("from")), ModelStore(client, Keys("to"))
    version = fitted("SPY:1m/close_5")
    store.put_many([version])
    store.set_alias("SPY:1m/close_5", "champion", version.digest, who="t")
    store.export(store.select_release(), "s3://models/release", s3=s3)
    assert [info.digest for info in other.import_from("s3://models/release", promote=True, s3=s3).stored] == [
        version.digest
    ]
    assert other.aliases() == store.aliases()
    assert load_export("s3://models/release", s3=s3)["SPY:1m/close_5"].digest == version.digest
    body = bucket.get_object(Bucket="models", Key="release")["Body"].read()
    bucket.put_object(Bucket="models", Key="release", Body=body[:-9])
    before = contents(client)
    with pytest.raises(BadExport, match="s3://models/release: it ends too early; nothing was imported"):
        other.import_from("s3://models/release", s3=s3)
    assert contents(client) == before


def test_without_boto3_the_way_to_get_it_is_told(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['boto3'] = None\n"
        "from modelstore.locations import reading\n"
        "from streams.errors import ConfigurationError\n"
        "try:\n"
        "    with reading('s3://a/b'): pass\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install 'red10[archive]'" in done.stdout


def write(path: Path, act: Callable[[BinaryIO], object]) -> None:
    with writing(path) as file:
        file.write(b"mine")
        act(file)


def test_a_file_that_could_not_be_written_to_its_end_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "e", lambda file: 1 / 0)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match="somebody else wrote it"):
        write(tmp_path / "e", lambda file: (tmp_path / "e").write_bytes(b"theirs"))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"theirs"]


def test_a_writer_that_is_killed_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from modelstore.locations import writing\n"
        "with writing(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "e")], cwd=ROOT)
    assert done.returncode == -9
    assert not (tmp_path / "e").exists()
    with writing(tmp_path / "e") as file:
        file.write(b"whole")
    assert (tmp_path / "e").read_bytes() == b"whole"

"""`docs/protocol.md` is taken at its word: tables against the code, examples as entries, command lines as commands.

Of the models, everything is read here as the page says, without the code that wrote it.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import re
import shlex
import struct
import subprocess
import sys
import tarfile
import types
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin

import numpy as np
import pytest
import redis
import zstandard
from numpy.typing import NDArray

from consumers.acts import WORDS
from modelstore.forest_format import Transform
from modelstore.manifest import Manifest, NaiveKind
from modelstore.release import CHAIN
from modelstore.releases import HISTORY, MAX_WHO, MAX_WHY, Releases
from modelstore.store import ModelStore
from modelstore.trees import encode_forest
from modelstore.verdicts import KEPT, MAX_REASON, Note
from modelstore.version import NewVersion
from ops.snapshots.manifest import HEADLINES, SnapshotManifest, SnapshotTenant, SnapshotVersion
from ops.snapshots.promotions import Promoted
from ops.snapshots.report import CHECKS, Report
from ops.snapshots.shelf import DATA, MANIFEST, PROMOTED, REPORT
from streams import records
from streams.block import MAGIC, MOST_TICKS, VERSION
from streams.codec import decode
from streams.columns import Ticks
from streams.decoded import Clock, ReleaseSwitch
from streams.keys import STORE, TENANTS, Keys, PartitionKeys
from streams.publish import BLOCK_FROM, clock_fields, group_ticks, release_fields
from streams.records import Record
from streams.series import partition_of
from streams.settings import load_settings
from streams.tenant import open_tenant
from tests.modelstore.boosters import random_trees, rows_of, walk
from tests.modelstore.made import fitted

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
HEADER = ["field", "needed", "type", "unit", "example", "meaning"]
MODEL_TABLE = re.compile(r"<!-- (hash|json|binary): (\w+) -->\n((?:\|.*\n)+)")
TABLE = re.compile(r"<!-- (record|control): (\w+) -->\n((?:\|.*\n)+)")
#: Every record that stands on the wire.
RECORDS = {
    name: found
    for name, found in vars(records).items()
    if isinstance(found, type) and issubclass(found, Record) and found is not Record
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def table(kind: str, name: str) -> list[dict[str, str]]:
    """The rows of a field table, by column."""
    [text] = [match[3] for match in TABLE.finditer(PAGE) if (match[1], match[2]) == (kind, name)]
    head, _, *rows = text.splitlines()
    assert cells(head) == HEADER
    return [dict(zip(HEADER, cells(row), strict=True)) for row in rows]


def code(cell: str) -> str:
    assert cell.startswith("`"), cell
    assert cell.endswith("`"), cell
    return cell[1:-1]


def examples(kind: str, name: str) -> dict[str, str]:
    return {code(row["field"]): code(row["example"]) for row in table(kind, name)}


def wire_type(annotation: Any) -> str:
    """What the page calls a field's type."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) in (Union, types.UnionType):
        return wire_type(parts[0])
    if get_origin(annotation) is tuple:
        return "objects" if get_origin(parts[0]) is dict else {str: "names", bool: "flags"}.get(parts[0], "numbers")
    if get_origin(annotation) is dict:
        return "object"
    if hasattr(annotation, "__metadata__"):
        return wire_type(annotation.__origin__)
    return {str: "text", int: "integer", float: "number", bool: "flag"}[annotation]


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_every_field_of_a_record_is_documented_and_none_is_invented(name: str) -> None:
    fields = RECORDS[name].model_fields
    rows = table("record", name)
    assert [code(row["field"]) for row in rows] == list(fields)
    for row in rows:
        field = fields[code(row["field"])]
        assert row["type"] == wire_type(field.annotation), row
        assert row["needed"] == ("yes" if field.is_required() else "no"), row
        assert row["unit"], row
        assert row["meaning"], row


def test_every_table_is_of_a_record_or_control_entry() -> None:
    named = {(match[1], match[2]) for match in TABLE.finditer(PAGE)}
    assert named == {("record", name) for name in RECORDS} | {
        ("control", name) for name in ("block", "clock", "release")
    }


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_the_examples_make_an_entry_that_is_read_and_written_the_same(client: redis.Redis, name: str) -> None:
    fields = examples("record", name)
    client.xadd("entry", cast(Any, fields))
    [(_, raw)] = cast(Any, client.xrange("entry"))
    assert RECORDS[name].from_fields(raw).to_fields() == fields


def test_the_examples_of_control_entries_are_what_is_written_and_read() -> None:
    clock, release = examples("control", "clock"), examples("control", "release")
    assert clock_fields(int(clock["ts"])) == clock
    assert release_fields(release["release"]) == release
    entries = [(b"1-0", [w.encode() for pair in fields.items() for w in pair]) for fields in (clock, release)]
    assert [type(part) for part in decode(entries).parts] == [Clock, ReleaseSwitch]


def test_a_block_is_documented_as_it_is_written() -> None:
    """Its layout is held byte by byte by tests/streams/test_block.py."""
    rows = {code(row["field"]): row for row in table("control", "block")}
    packed = group_ticks(Ticks.from_rows([("SPY", 1.0, 1.0, 1)]), lambda symbol: Keys("t").partition(0))[0].packed(
        "always"
    )
    words = packed.data.split(b"\r\n")
    assert [words[3].decode(), words[5].decode(), words[7].decode()] == ["kind", code(rows["kind"]["example"]), "data"]
    layout = PAGE[PAGE.index("| offset | bytes | what |") :].split("\n\n")[0]
    assert f"`{MAGIC.decode()}`" in layout
    assert f"version of the format, {VERSION} |" in layout
    assert f"1 to {MOST_TICKS:,} |" in layout
    assert f"at least {BLOCK_FROM} ticks go to a" in PAGE


def test_every_answer_to_a_publisher_is_documented() -> None:
    script = (Path(__file__).parent.parent / "streams" / "publish.lua").read_text(encoding="utf-8")
    rows = PAGE[PAGE.index("| answer | means | the publisher |") :].split("\n\n")[0].splitlines()[2:]
    assert {code(cells(row)[0]) for row in rows} == set(re.findall(r"return \{'(\w+)'", script))


def properties(keys: Any) -> set[str]:
    names = [name for name, value in vars(type(keys)).items() if isinstance(value, property)]
    return {getattr(keys, name) for name in names}


def test_every_key_is_documented_and_none_is_invented() -> None:
    tenant = Keys("T")
    partition = PartitionKeys("T", cast(int, "p"))
    known = properties(tenant) | properties(partition) | {TENANTS, STORE, partition.bars("SERIES")}
    known |= {tenant.version("DIGEST"), tenant.model("NAME"), tenant.release("ID"), tenant.verdicts("NAME")}
    known |= {tenant.tags("DIGEST"), tenant.column("NAME"), tenant.metric("NAME"), tenant.tagged("TAG")}
    documented = [code(cells(line)[0]) for line in PAGE.splitlines() if line.startswith("| `red10:")]
    assert len(documented) == len(set(documented))
    assert set(documented) == known


def test_the_check_values_of_partitions_are_right() -> None:
    found = re.findall(r"`([A-Z]+)` (\d)", PAGE[PAGE.index("Check values for N = 8") :].split("\n\n")[0])
    assert len(found) >= 3
    for symbol, partition in found:
        assert partition_of(symbol, 8) == int(partition)


def test_every_reason_of_a_dead_letter_is_documented() -> None:
    """The words are those that the scorer and its codec use."""
    root = Path(__file__).parent.parent
    used: set[str] = set()
    for source in (
        root / "streams" / "codec.py",
        root / "consumers" / "scorer.py",
        root / "consumers" / "partition.py",
    ):
        text = source.read_text(encoding="utf-8")
        used |= set(re.findall(r'(?:BadRecord|Unusable)\("(\w+)"', text))
        used |= set(re.findall(r'(?:_bury\(batch|dead_fields\(|set_aside\(decoded),? ?"(\w+)"', text))
    rows = PAGE[PAGE.index("| reason | what was wrong |") :].split("\n\n")[0].splitlines()[2:]
    assert {code(cells(row)[0]) for row in rows} == used


def lines() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_command_lines_do_what_they_say(client: redis.Redis) -> None:
    """redis-cli need not be there: its arguments are sent as they are."""
    tenant = open_tenant(client, load_settings()[0])
    partition = tenant.keys.partition(7)
    for key, name in (
        (partition.signals, "Signal"),
        (partition.predictions, "Prediction"),
        (partition.bars("SPY:1m"), "Bar"),
        (tenant.keys.results, "TrainingResult"),
        (tenant.keys.predictions, "PredictionResult"),
    ):
        client.xadd(key, cast(Any, examples("record", name)))
    answers: dict[str, Any] = {}
    for line in lines():
        words = shlex.split(line, comments=True)
        if words[0] == "python3":
            done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=True)
            assert done.stdout.strip() == line.partition("# ")[2].strip()
            continue
        assert words[0] == "redis-cli"
        send: Any = client.execute_command
        answers[line] = send(*words[1:])
    assert all(answers.values()), answers
    assert answers["redis-cli HGET 'red10:{default}:tenant' partitions"] == b"8"

    raw = [(i, [w for p in f.items() for w in p]) for i, f in cast(Any, client.xrange(partition.ticks))]
    decoded = decode(raw)
    assert not decoded.unusable
    assert [type(part).__name__ for part in decoded.parts] == ["TickRun", "Clock"]
    train, table, predict = (fields for _, fields in cast(Any, client.xrange(tenant.keys.requests)))
    assert records.TrainingRequest.from_fields(train).series == "SPY:1m"
    assert records.TableRequest.from_fields(table).dataset == "flowers/iris.csv"
    rows = records.PredictionRequest.from_fields(predict).rows
    assert rows is not None
    assert rows[0]["petal_width"] == 0.2


# Models


def model_table(kind: str, name: str) -> list[list[str]]:
    """The rows of a table about models, without its head."""
    [text] = [match[3] for match in MODEL_TABLE.finditer(PAGE) if (match[1], match[2]) == (kind, name)]
    return [cells(line) for line in text.splitlines()[2:]]


def documented(kind: str, name: str) -> set[str]:
    return {code(row[0]) for row in model_table(kind, name)}


def text_of(fields: Mapping[bytes, bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in fields.items()}


def unpack(name: str, blob: bytes, **sizes: int) -> dict[str, tuple[Any, ...]]:
    """Read a block as a table of the page describes it; `at` as the page writes it -> the numbers there.

    Args:
        sizes: what the letters of the page stand for, those that the block does not say itself.
    """
    codes = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q", "f32": "f", "4 bytes": "4s", "8 bytes": "8s"}
    found: dict[str, tuple[Any, ...]] = {}
    for at, kind, meaning in model_table("binary", name):
        count, _, what = kind.rpartition(" × ")
        place = sum(
            int(term.split(" ")[0]) * sizes[term.split(" ")[1]] if " " in term else int(term)
            for term in at.split(" + ")
        )
        if not kind:
            found[at] = (place,)
            continue
        found[at] = struct.unpack_from("<" + codes[what] * (sizes[count] if count else 1), blob, place)
        letter = re.match(r"(?:sparse: )?([A-Z])\b", meaning)
        if letter is not None:
            sizes[letter[1]] = found[at][0]
    return found


def key_of(value: np.float32) -> int:
    bits = int(np.float32(value + 0).view(np.int32))
    return bits ^ 0x7FFFFFFF if bits < 0 else bits


def goes_left(row: NDArray[np.float32], test: int, key: int) -> bool:
    value = row[test // 2]
    if np.isnan(value):
        return (2**31 - 1 if test % 2 else -(2**31)) < key
    return key_of(value) < key


def leaf_of(blob: bytes, head: dict[str, tuple[Any, ...]], body: int, tree: int, row: NDArray[np.float32]) -> Any:
    """The leaf of one tree, found as the page says."""
    (layout,), (depth,), (trees,) = head["10"], head["11"], head["16"]
    if layout == 0:
        splits = 2**depth - 1
        size = 4 * splits + 4 * (splits + 1) + 2 * (splits + (1 if depth else 0))
        at = body + tree * size
        keys = struct.unpack_from(f"<{splits}i", blob, at)
        leaves = struct.unpack_from(f"<{splits + 1}f", blob, at + 4 * splits)
        tests = struct.unpack_from(f"<{splits}H", blob, at + 4 * splits + 4 * (splits + 1))
        node = 0
        while node < splits:
            node = 2 * node + (1 if goes_left(row, tests[node], keys[node]) else 2)
        return np.float32(leaves[node - splits])
    (node,) = struct.unpack_from("<I", blob, body + 4 * tree)
    nodes = body + 4 * (trees + 1)
    while True:
        key, test, step = struct.unpack_from("<iHH", blob, nodes + 8 * node)
        if not step:
            return np.float32(struct.unpack_from("<f", blob, nodes + 8 * node)[0])
        node += step + (0 if goes_left(row, test, key) else 1)


@pytest.mark.parametrize(("splits", "layout"), [(0, 0), (1, 0), (3, 0), (60, 1)])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_forest_can_be_scored_as_the_page_says(splits: int, layout: int, outputs: int) -> None:
    trees = random_trees(splits, 7, splits, 5, outputs)
    base = np.linspace(-1, 1, outputs, dtype=np.float32)
    blob = encode_forest(trees, base, 5, Transform.ARGMAX)
    head = unpack("forest", blob)
    assert len(blob) % 4 == 0
    assert head["0"] == (b"R10F",)
    assert head["4"] == (zlib.crc32(blob[8:]),)
    assert [head[at] for at in ("8", "9", "10", "12", "14", "16", "24")] == [
        (1,), (5,), (layout,), (5,), (outputs,), (7,), (0,),
    ]  # fmt: skip
    (body,) = head["32 + 8 K"]
    for row in rows_of(1, 20, 5):
        found = []
        for first, last, start in zip((0, *head["32 + 4 K"]), head["32 + 4 K"], head["32"], strict=False):
            leaves = (leaf_of(blob, head, body, tree, row) for tree in range(first, last))
            found.append(list(itertools.accumulate(leaves, np.add, initial=np.float32(start)))[-1])
        assert np.array(found).tobytes() == np.array(walk(trees, base, row)).tobytes()


def test_the_transforms_are_named_by_their_codes() -> None:
    (meaning,) = (row[2] for row in model_table("binary", "forest") if row[0] == "9")
    assert re.findall(r"(\d) (\w+)", meaning) == [(str(form.value), form.name.lower()) for form in Transform]


def test_a_version_is_stored_as_the_page_says(client: redis.Redis) -> None:
    keys = Keys("t")
    version = fitted("SPY:1m/close_5")
    ModelStore(client, keys).put_many([version])
    fields = text_of(cast(Any, client.hgetall(keys.version(version.digest))))
    assert set(fields) == documented("hash", "version")
    assert (fields["name"], fields["number"]) == (b"SPY:1m/close_5", b"1")
    assert cast(Any, client.hgetall(keys.model("SPY:1m/close_5"))) == {b"1": version.digest.encode(), b"last": b"1"}
    assert client.zscore(keys.models, "SPY:1m/close_5") == client.zscore(keys.versions, version.digest) == 0
    assert set(text_of(cast(Any, client.hgetall(STORE)))) == {"uuid"}

    parts = [
        zstandard.decompress(fields["manifest"]),
        fields["serving"],
        fields["forest"],
        zstandard.decompress(fields["ubj"]),
    ]
    assert fields["parts"] == b"".join(hashlib.sha256(part).digest() for part in parts)
    assert hashlib.sha256(b"red10 version 1\n" + fields["parts"]).hexdigest() == version.digest

    manifest = json.loads(parts[0])
    assert list(manifest) == sorted(manifest)
    assert set(manifest) == documented("json", "manifest") == set(Manifest.model_fields)

    block = unpack("serving", fields["serving"])
    assert [block[at] for at in ("0", "4", "6", "8")] == [(b"R10S",), (2,), (4,), (version.serving.trained_through,)]
    assert block["16"] == (version.serving.features,)
    assert [block[at] for at in ("24", "25", "26")] == [(NaiveKind.MEAN,), (0,), (1,)]
    assert block["28"] == tuple(version.serving.naive_table)
    assert block["28 + 4 K"] == tuple(version.serving.low)
    assert block["28 + 4 K + 4 F"] == tuple(version.serving.high)


def test_the_naive_forecasts_are_named_by_their_codes() -> None:
    (meaning,) = (row[2] for row in model_table("binary", "serving") if row[0] == "24")
    assert re.findall(r"(\d) (\w+)", meaning) == [(str(kind.value), kind.name.lower()) for kind in NaiveKind]


def test_releases_are_stored_as_the_page_says(client: redis.Redis) -> None:
    keys = Keys("t")
    names = ["SPY:1m/close_5", "SPY:1m/close_10", "AAPL:1m/close_5"]
    versions = [fitted(name, seed) for seed, name in enumerate(names)]
    ModelStore(client, keys).put_many(versions)
    releases = Releases(client, keys)
    with cast(Any, client).pubsub() as events:
        events.subscribe(keys.events)
        assert events.get_message(timeout=5) is not None
        first = releases.promote(
            {(n, "champion"): v.digest for n, v in zip(names, versions, strict=True)}, who="me", why="x"
        )
        told = events.get_message(timeout=5)
    assert told is not None
    assert told["data"] == f"1 {first.id}".encode()
    note = Note(names[0], 17, "dropped", versions[0].digest, None, "y")
    second = releases.promote({(names[0], "champion"): None}, who="me", why="y", notes=[note])

    def stored(release: str) -> dict[str, bytes]:
        found = text_of(cast(Any, client.hgetall(keys.release(release))))
        assert set(found) == documented("hash", "release")
        return found

    triples = sorted([name, "champion", version.digest] for name, version in zip(names, versions, strict=True))
    whole, delta = stored(first.id), stored(second.id)
    assert json.loads(zstandard.decompress(whole["body"])) == triples
    assert [whole[name] for name in ("base", "depth", "count")] == [b"", b"0", b"3"]
    assert json.loads(zstandard.decompress(delta["body"])) == [[names[0], "champion", None]]
    assert [delta[name] for name in ("base", "depth", "count")] == [first.id.encode(), b"1", b"2"]
    text = json.dumps(triples, separators=(",", ":")).encode()
    assert hashlib.sha256(b"red10 release 1\n" + text).hexdigest() == first.id

    pointer = text_of(cast(Any, client.hgetall(keys.release_pointer)))
    assert set(pointer) == documented("hash", "pointer")
    assert (pointer["id"], pointer["number"], pointer["parent"]) == (second.id.encode(), b"2", first.id.encode())
    [(_, entry), _] = cast(Any, client.xrevrange(keys.releases))
    assert set(text_of(entry)) == documented("hash", "switch")
    [(_, verdict)] = cast(Any, client.xrange(keys.verdicts(names[0])))
    assert set(text_of(verdict)) == documented("hash", "verdict")
    assert (verdict[b"at"], verdict[b"over"], verdict[b"release"]) == (b"17", b"", second.id.encode())


def test_the_index_is_stored_as_the_page_says(client: redis.Redis) -> None:
    keys, store = Keys("t"), ModelStore(client, Keys("t"))
    plain = [fitted(name, seed) for seed, name in enumerate(["SPY:1m/close_5", "SPY:1m/close_10", "AAPL:1m/close_5"])]
    metrics = [{"skill": 0.25}, {"skill": -1.5, "rounds": 7}, {"rounds": None}]
    versions = [
        NewVersion(v.manifest.model_copy(update={"metrics": found}), v.serving, v.forest, v.ubj)
        for v, found in zip(plain, metrics, strict=True)
    ]
    infos = store.put_many(versions)
    store.tags.change(versions[1].digest, ["env=prod", "checked"])
    store.remove([versions[0].digest])
    head = text_of(cast(Any, client.hgetall(keys.index)))
    assert set(head) == documented("hash", "index")
    assert head == {"format": b"1", "rows": b"3", "removed": b"1"}
    assert client.lrange(keys.index_free, 0, -1) == [b"0"]

    sizes = {"32 bytes": 32, "f64": 8, "cell": 8, "u32": 4}
    kinds = {code(row[0]): sizes[row[1]] for row in model_table("binary", "index")}

    def read(column: str, row: int, kind: str = "") -> bytes:
        width = kinds[kind or column]
        found = client.get(keys._key(column)) or b""
        return cast(bytes, found)[row * width : (row + 1) * width].ljust(width, b"\0")

    def cell(column: str, row: int, kind: str = "") -> float:
        raw = bytearray(read(column, row, kind))
        raw[6] ^= 0xF8
        raw[7] ^= 0x7F
        return cast(float, struct.unpack("<d", raw)[0])

    assert read("column:digest", 0) == bytes(32)
    for row, (version, info) in enumerate(zip(versions, infos, strict=True)):
        if row == 0:
            continue
        assert client.hget(keys.version(version.digest), "row") == str(row).encode()
        assert read("column:digest", row).hex() == version.digest
        assert struct.unpack("<d", read("column:created", row)) == (info.created_ms,)
        assert cell("column:trained_through", row) == version.manifest.trained_through / 1e6
        dataset, target = version.manifest.name.split("/")
        assert (
            int(cast(Any, client.hget(keys.index_datasets, dataset)))
            == struct.unpack("<I", read("column:dataset", row))[0]
        )
        assert (
            int(cast(Any, client.hget(keys.index_targets, target)))
            == struct.unpack("<I", read("column:target", row))[0]
        )
    assert cell("metric:skill", 1, "metric:NAME") == -1.5
    assert cell("metric:rounds", 1, "metric:NAME") == 7
    assert np.isnan([cell("metric:skill", 0, "metric:NAME"), cell("metric:rounds", 2, "metric:NAME")]).all()
    assert cast(Any, client.hgetall(keys.index_metrics)) == {b"skill": b"1", b"rounds": b"1"}
    assert cast(Any, client.hgetall(keys.tags(versions[1].digest))) == {b"env": b"prod", b"checked": b""}
    for tag in ("env", "env=prod", "checked"):
        assert client.smembers(keys.tagged(tag)) == {b"1"}
        assert client.hget(keys.index_tags, tag) == b"1"


def test_an_export_is_written_as_the_page_says(client: redis.Redis, tmp_path: Path) -> None:
    store = ModelStore(client, Keys("t"))
    versions = [fitted("SPY:1m/close_5", seed) for seed in range(2)]
    store.put_many(versions)
    store.tags.change(versions[0].digest, ["env=prod"])
    store.set_alias("SPY:1m/close_5", "champion", "SPY:1m/close_5@2", who="me")
    store.export(store.select("SPY:1m", every=True), tmp_path / "export")
    plain = zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "export").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        members = {member.name: cast(Any, archive.extractfile(member)).read() for member in archive}
        assert {(m.type, m.mode, m.uid, m.gid, m.mtime, m.uname) for m in archive} == {(b"0", 0o644, 0, 0, 0, "")}
    first, *others = members
    assert first == "manifest.json"
    contents = json.loads(members[first])
    assert json.dumps(contents, sort_keys=True, separators=(",", ":")).encode() == members[first]
    assert set(contents) == documented("json", "export")
    assert (contents["format"], contents["kind"], contents["of"]) == ("red10 export 1", "series", "SPY:1m")
    assert contents["aliases"] == [["SPY:1m/close_5", "champion", versions[1].digest]]
    ordered = sorted(versions, key=lambda version: version.digest)
    tags = {versions[0].digest: {"env": "prod"}, versions[1].digest: {}}
    assert contents["versions"] == [
        {"digest": version.digest, "name": "SPY:1m/close_5", "tags": tags[version.digest]} for version in ordered
    ]
    rows = PAGE[PAGE.index("| member | what |") :].split("\n\n")[0].splitlines()[3:]
    names = [code(cells(row)[0]) for row in rows]
    assert others == [name.replace("DIGEST", version.digest) for version in ordered for name in names]
    assert contents["members"] == [
        {"path": path, "size": len(members[path]), "sha256": hashlib.sha256(members[path]).hexdigest()}
        for path in others
    ]
    for version in versions:
        assert members[f"{version.digest}/model.ubj"] == version.ubj
        assert members[f"{version.digest}/forest.bin"] == version.forest


def test_every_verdict_is_documented() -> None:
    rows = PAGE[PAGE.index("| verdict | what happened |") :].split("\n\n")[0].splitlines()[2:]
    assert {code(cells(row)[0]) for row in rows} == {"first", "challenger", *WORDS.values()}


def test_the_bounds_of_releases_are_those_of_the_page() -> None:
    assert f"At most {CHAIN} bodies" in PAGE
    assert f"the last {HISTORY:,} switches" in PAGE
    assert f"at most {MAX_WHO} characters" in PAGE
    assert f"at most {MAX_WHY} characters" in PAGE
    assert f"the last {KEPT} entries" in PAGE
    assert f"at most {MAX_REASON} characters" in PAGE


def test_a_snapshot_is_described_as_the_page_says() -> None:
    for name, model in (
        ("snapshot", SnapshotManifest),
        ("snapshot_tenant", SnapshotTenant),
        ("snapshot_version", SnapshotVersion),
        ("report", Report),
    ):
        assert documented("json", name) == set(model.model_fields)
        if "format" in model.model_fields:
            assert f"`{model.model_fields['format'].default}`" in PAGE
    fields = {field for row in model_table("json", "promotion") for field in re.findall(r"`(\w+)`", row[0])}
    assert fields == set(Promoted.model_fields)
    assert f"`{Promoted.model_fields['format'].default}`" in PAGE
    checks = PAGE[PAGE.index("| check | what is checked |") :].split("\n\n")[0].splitlines()[2:]
    assert tuple(code(cells(row)[0]) for row in checks) == CHECKS
    files = PAGE[PAGE.index("| `models.rdb` |") :].split("\n\n")[0].splitlines()
    assert [code(cells(row)[0]) for row in files] == [DATA, MANIFEST, REPORT, f"{PROMOTED}ENVIRONMENT.json"]
    [row] = [row for row in model_table("json", "snapshot_version") if code(row[0]) == "metrics"]
    assert re.findall(r"`(\w+)`", row[2]) == list(HEADLINES)
    assert re.search(r"`(\d{8}T\d{6}Z-[0-9a-f]{8})`", PAGE)

"""`docs/protocol.md` is taken at its word: tables against the code, examples as entries, command lines as commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, Union, cast, get_args, get_origin

import pytest
import redis

from streams import records
from streams.codec import Clock, ReleaseSwitch, decode
from streams.keys import STORE, TENANTS, Keys, PartitionKeys
from streams.publish import clock_fields, release_fields
from streams.records import Record
from streams.series import partition_of
from streams.settings import load_settings
from streams.tenant import open_tenant

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
HEADER = ["field", "needed", "type", "unit", "example", "meaning"]
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
        return {str: "names", bool: "flags"}.get(parts[0], "numbers")
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
    assert named == {("record", name) for name in RECORDS} | {("control", "clock"), ("control", "release")}


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


def properties(keys: Any) -> set[str]:
    names = [name for name, value in vars(type(keys)).items() if isinstance(value, property)]
    return {getattr(keys, name) for name in names}


def test_every_key_is_documented_and_none_is_invented() -> None:
    tenant = Keys("T")
    partition = PartitionKeys("T", cast(int, "p"))
    known = properties(tenant) | properties(partition) | {TENANTS, STORE, partition.bars("SERIES")}
    known |= {tenant.version("DIGEST"), tenant.model("NAME"), tenant.release("ID")}
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
    for source in (root / "streams" / "codec.py", root / "consumers" / "scorer.py"):
        text = source.read_text(encoding="utf-8")
        used |= set(re.findall(r'(?:BadRecord|Unusable)\("(\w+)"', text))
        used |= set(re.findall(r'_bury\(batch, "(\w+)"', text))
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
    [(_, request)] = cast(Any, client.xrange(tenant.keys.requests))
    assert records.TrainingRequest.from_fields(request).series == "SPY:1m"

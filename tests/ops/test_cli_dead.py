from __future__ import annotations

import re
from typing import Any, cast

import orjson
import pytest
import redis

from consumers.outputs import dead_fields
from streams.ids import Source, StreamID
from streams.settings import load_settings
from streams.tenant import Tenant, open_tenant
from tests.ops.conftest import Red10
from tests.streams.test_dead_letters import bury_request


@pytest.fixture
def tenant(client: redis.Redis) -> Tenant:
    return open_tenant(client, load_settings()[0])


def bury(client: redis.Redis, tenant: Tenant, reason: str, price: str = "-1") -> str:
    partition = tenant.partition_of("SPY")
    words = [b"symbol", b"SPY", b"price", price.encode(), b"ts", b"5"]
    fields = dead_fields(reason, f"the price is {price}", Source(0, StreamID(1, 0), 0, 0), words)
    entry: Any = client.xadd(tenant.keys.partition(partition).dead, dict(zip(fields[::2], fields[1::2], strict=True)))
    return f"{partition}/{entry.decode()}"


def ticks(client: redis.Redis, tenant: Tenant) -> list[dict[bytes, bytes]]:
    key = tenant.keys.partition(tenant.partition_of("SPY")).ticks
    return [fields for _, fields in cast(Any, client.xrange(key))]


def test_letters_are_listed_and_shown_with_all_that_is_known(red10: Red10, client: redis.Redis, tenant: Tenant) -> None:
    tick, request = bury(client, tenant, "bad_price"), bury_request(client, tenant.keys)
    listed = red10("dead", "list")
    assert listed.exit_code == 0
    assert max(map(len, listed.stdout.splitlines())) <= 80
    assert "bad_price" in listed.stdout
    assert "deliveries" in listed.stdout
    rows = orjson.loads(red10("dead", "list", "--json").stdout)
    rows.sort(key=lambda row: [request, tick].index(row["id"]))
    assert rows[1] == {
        "id": tick,
        "where": str(tenant.partition_of("SPY")),
        "ts": int(tick.partition("/")[2].partition("-")[0]),
        "reason": "bad_price",
        "detail": "the price is -1",
        "src": "0:1-0:0:0",
        "fields": {"symbol": "SPY", "price": "-1", "ts": "5"},
    }
    assert (rows[0]["deliveries"], rows[0]["consumers"], rows[0]["first"]) == (5, ["a", "b"], 1)
    shown = red10("dead", "show", request)
    assert re.search(r"consumers +a, b +\n", shown.stdout)
    assert re.search(r"field series +SPY:1m +\n", shown.stdout)
    assert orjson.loads(red10("dead", "show", tick, "--json").stdout) == rows[1]
    only = orjson.loads(red10("dead", "list", "--reason", "bad_price", "--json").stdout)
    assert [row["id"] for row in only] == [tick]


def test_a_letter_is_retried_by_its_id(red10: Red10, client: redis.Redis, tenant: Tenant) -> None:
    ref = bury(client, tenant, "bad_price")
    done = red10("dead", "retry", ref)
    assert done.exit_code == 0
    assert re.search(rf"{ref}: \d+-\d+ in red10:\{{default:7\}}:ticks\n1 published again\.", done.stdout)
    assert ticks(client, tenant) == [{b"symbol": b"SPY", b"price": b"-1", b"ts": b"5"}]
    again = red10("dead", "retry", ref)
    assert again.exit_code == 2
    assert "red10 dead list" in again.stderr
    assert len(ticks(client, tenant)) == 1


def test_all_of_a_reason_are_retried_after_their_number_was_agreed_to(
    red10: Red10, client: redis.Redis, tenant: Tenant
) -> None:
    for price in "123":
        bury(client, tenant, "late", price)
    other = bury(client, tenant, "future")
    asked = red10("dead", "retry", "--reason", "late")
    assert asked.exit_code == 2
    assert "3 dead letters (late 3) would be published again: add --yes" in asked.stderr
    assert ticks(client, tenant) == []
    done = red10("dead", "retry", "--reason", "late", "--yes", "--json")
    assert len(orjson.loads(done.stdout)) == 3
    assert [fields[b"price"] for fields in ticks(client, tenant)] == [b"1", b"2", b"3"]
    assert [row["id"] for row in orjson.loads(red10("dead", "list", "--json").stdout)] == [other]


def test_all_are_dropped_with_counts_and_one_by_its_id(red10: Red10, client: redis.Redis, tenant: Tenant) -> None:
    refs = [bury(client, tenant, reason) for reason in ("late", "late", "future")]
    assert red10("dead", "drop", refs[0]).stdout == "1 deleted.\n"
    asked = red10("dead", "drop", "--all")
    assert "2 dead letters (late 1, future 1) would be deleted" in asked.stderr
    assert red10("dead", "drop", "--all", "--yes").stdout == "2 deleted.\n"
    assert red10("dead", "drop", "--all", "--yes").stdout == "0 deleted.\n"
    assert ticks(client, tenant) == []


def test_what_cannot_be_retried_among_all_is_said_and_left(red10: Red10, client: redis.Redis, tenant: Tenant) -> None:
    client.xadd(tenant.keys.dead, {"hello": "world"})
    bury(client, tenant, "late")
    done = red10("dead", "retry", "--all", "-y")
    assert done.exit_code == 0
    assert "left alone: requests/" in done.stderr
    assert done.stdout == "1 published again.\n"
    assert client.xlen(tenant.keys.dead) == 1


@pytest.mark.parametrize("args", [[], ["1-0", "--all"], ["--all", "--reason", "late"]])
@pytest.mark.parametrize("verb", ["retry", "drop"])
def test_an_unclear_choice_is_refused(red10: Red10, tenant: Tenant, verb: str, args: list[str]) -> None:
    done = red10("dead", verb, *args)
    assert done.exit_code == 2
    assert "red10 dead list" in done.stderr


def test_nothing_to_show_and_no_tenant_are_said(red10: Red10, tenant: Tenant) -> None:
    assert "No dead letters" in red10("dead", "list").stdout
    assert orjson.loads(red10("dead", "list", "--json").stdout) == []
    missing = red10("dead", "list", "--tenant", "other")
    assert missing.exit_code == 2
    assert "red10 tenant list" in missing.stderr

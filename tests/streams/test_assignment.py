"""The assignment of partitions to members."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streams.assignment import assign, ranking, succession

names = st.lists(st.text("abcdefghij0123456789", min_size=1, max_size=8), min_size=1, max_size=12, unique=True)


@given(st.integers(1, 64), names)
def test_every_partition_has_an_owner_and_none_owns_more_than_its_share(partitions: int, members: list[str]) -> None:
    owners = assign(partitions, members)
    assert sorted(owners) == list(range(partitions))
    assert max(Counter(owners.values()).values()) <= -(-partitions // len(members))


@given(st.integers(1, 64), names)
def test_the_order_of_members_does_not_matter(partitions: int, members: list[str]) -> None:
    assert assign(partitions, members) == assign(partitions, list(reversed(members)))


@given(st.integers(0, 63), names)
def test_the_succession_begins_with_the_owner_and_names_each_member_once(partition: int, members: list[str]) -> None:
    order = succession(partition, members[-1], members)
    assert order[0] == members[-1]
    assert sorted(order) == sorted(members)


def test_no_worker_is_left_idle_where_plain_rendezvous_leaves_some() -> None:
    idle = bounded = 0
    for trial in range(200):
        members = [f"worker-{trial}-{n}" for n in range(4)]
        idle += len({ranking(partition, members)[0] for partition in range(8)}) < 4
        bounded += len(set(assign(8, members).values())) < 4
    assert idle > 40
    assert bounded == 0


def test_nobody_owns_anything_without_members() -> None:
    assert assign(8, []) == {}

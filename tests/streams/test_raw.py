from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.raw import escape, escaped_fields, named, raw_words, unescape
from streams.records import DeadLetter


@given(st.binary(max_size=60))
@example(b"\\xff")
@example(b"\xff")
@example(b"\\\\x41")
@example("é\u2028\x00".encode())
@example(b"\xed\xa0\x80")
def test_any_bytes_come_back(raw: bytes) -> None:
    assert unescape(escape(raw)) == raw
    assert orjson.loads(orjson.dumps(escape(raw))) == escape(raw)


@given(st.lists(st.tuples(st.binary(max_size=5), st.binary(max_size=20)), max_size=6))
@example([(b"a", b"1"), (b"a", b"2")])
@example([(b"\xff", b"1"), (b"\\xff", b"2")])
def test_the_fields_of_any_entry_come_back_through_a_dead_letter_in_their_order(
    pairs: list[tuple[bytes, bytes]],
) -> None:
    words = [word for pair in pairs for word in pair]
    letter = DeadLetter(reason="malformed", detail="x", src="0:1-0:0:0", fields=escaped_fields(words))
    assert raw_words(DeadLetter.from_fields(letter.to_fields()).fields) == words


def test_readable_text_stays_readable() -> None:
    assert escaped_fields([b"symbol", "é".encode(), b"price", b"\xff1"]) == {"symbol": "é", "price": "\\xff1"}


@pytest.mark.parametrize("fields", [{"symbol": "SPY"}, ("symbol", "X", "symbol", "SPY")])
def test_of_a_name_that_occurs_twice_the_last_value_counts(fields: dict[str, str] | tuple[str, ...]) -> None:
    assert named(fields) == {"symbol": "SPY"}

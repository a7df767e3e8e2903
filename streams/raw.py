r"""The raw fields of an entry as JSON text, and back to the very same bytes.

A dead letter holds the entry that it is about. Its names and values are any bytes; JSON has text. So bytes that are no
UTF-8, and backslashes, are written as `\xNN`: every backslash in the text begins such an escape, hence what is read
back is what was there, byte for byte. Fields are an object; should a name occur twice, an array of names and values in
turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Field -> value, or names and values in turn.
Escaped = dict[str, str] | tuple[str, ...]

#: Most bytes of an entry that its dead letter keeps: more than 65,536 ticks in a block have. Escaped, they may be five
#: times as many. Whoever may write an entry of hundreds of megabytes must not cause letters that Redis does not take.
MOST_KEPT = 4 << 20

_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


def escape(raw: bytes) -> str:
    r"""Bytes as text.

    >>> escape(b"a\xff\\")
    'a\\xff\\x5c'
    """
    return raw.replace(b"\\", b"\\x5c").decode("utf-8", "backslashreplace")


def unescape(text: str) -> bytes:
    r"""The bytes that `escape` was given.

    >>> unescape("a\\xff\\x5c")
    b'a\xff\\'
    """
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), text.encode())


def escaped_fields(words: Sequence[bytes]) -> Escaped:
    """The fields of an entry for a dead letter.

    Args:
        words: names and values in turn.
    """
    texts = tuple(escape(word) for word in words)
    names = texts[::2]
    return texts if len(set(names)) < len(names) else dict(zip(names, texts[1::2], strict=True))


def kept(words: Sequence[bytes]) -> tuple[Sequence[bytes], str]:
    """What of an entry its dead letter keeps: all or nothing, and then a note for the letter's detail.

    Args:
        words: names and values in turn.
    """
    size = sum(map(len, words))
    return (words, "") if size <= MOST_KEPT else ((), f" (its fields, {size:,} bytes, are too large to be kept here)")


def raw_words(fields: Escaped) -> list[bytes]:
    """Names and values in turn, as they stood in the entry."""
    texts = [text for pair in fields.items() for text in pair] if isinstance(fields, dict) else fields
    return [unescape(text) for text in texts]


def named(fields: Escaped) -> dict[str, str]:
    """Field -> value, as a reader of the entry would see it: of a name that occurs twice the last one."""
    return fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))

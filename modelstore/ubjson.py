"""Reading UBJSON, as far as `Booster.save_raw("ubj")` writes it.

The compiler reads trees from this form and not from JSON text, because here a float32 is its own four bytes; text would
be rounded twice on its way through a double. Only a trainer calls this, on what its own XGBoost has just written; a
scorer never opens a stored XGBoost model.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from modelstore.errors import BadModel

_SCALARS = {
    ord(marker): struct.Struct(">" + code)
    for marker, code in {"i": "b", "U": "B", "I": "h", "l": "i", "L": "q", "d": "f", "D": "d"}.items()
}
_ARRAYS = {
    ord(marker): np.dtype(">" + code)
    for marker, code in {"i": "i1", "U": "u1", "I": "i2", "l": "i4", "L": "i8", "d": "f4", "D": "f8"}.items()
}
_CONSTANTS = {ord("T"): True, ord("F"): False, ord("Z"): None}
_OBJECT, _OBJECT_END, _ARRAY, _ARRAY_END, _TEXT, _TYPE, _COUNT = b"{}[]S$#"


def loads(data: bytes | bytearray) -> Any:
    """The value that the bytes hold; arrays of one type of number as big-endian numpy arrays.

    Raises:
        BadModel: the bytes are not UBJSON as XGBoost writes it.
    """
    try:
        return _value(bytes(data), 0)[0]
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise BadModel(f"the booster's UBJSON cannot be read: {error!r}; use a released version of XGBoost") from error


# Each of the following takes the place where it begins and returns what it read and the place behind it.


def _value(data: bytes, at: int) -> tuple[Any, int]:
    marker = data[at]
    if marker == _ARRAY:
        return _elements(data, at + 1)
    if marker == _OBJECT:
        return _members(data, at + 1)
    if marker == _TEXT:
        return _text(data, at + 1)
    if form := _SCALARS.get(marker):
        return form.unpack_from(data, at + 1)[0], at + 1 + form.size
    return _CONSTANTS[marker], at + 1


def _length(data: bytes, at: int) -> tuple[int, int]:
    form = _SCALARS[data[at]]
    found = form.unpack_from(data, at + 1)[0]
    if found < 0:
        raise ValueError(f"a length of {found}")
    return found, at + 1 + form.size


def _text(data: bytes, at: int) -> tuple[str, int]:
    size, at = _length(data, at)
    return data[at : at + size].decode(), at + size


def _members(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    found = {}
    while data[at] != _OBJECT_END:
        name, at = _text(data, at)
        found[name], at = _value(data, at)
    return found, at + 1


def _elements(data: bytes, at: int) -> tuple[Any, int]:
    if data[at] == _TYPE:
        form = _ARRAYS[data[at + 1]]
        if data[at + 2] != _COUNT:
            raise ValueError("an array of one type without a length")
        count, at = _length(data, at + 3)
        return np.frombuffer(data, form, count, at), at + count * form.itemsize
    found = []
    if data[at] == _COUNT:
        count, at = _length(data, at + 1)
        for _ in range(count):
            item, at = _value(data, at)
            found.append(item)
        return found, at
    while data[at] != _ARRAY_END:
        item, at = _value(data, at)
        found.append(item)
    return found, at + 1

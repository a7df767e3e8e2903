"""Compression of what the store keeps: zstd, with a bound on what comes out.

The stored bytes may be damaged or hostile, so the size that a frame announces is checked before memory is taken.
Identities are made over the raw bytes; the level may change without changing any digest.
"""

from __future__ import annotations

import zstandard

from modelstore.errors import BadModel

#: Measured on UBJ of 100 trees of depth 3: 118 kB become 16 kB in 0.2 ms; the highest level saves 6 % more in 70 ms.
LEVEL = 3


def compress(raw: bytes) -> bytes:
    """One zstd frame that states its size."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(raw)


def decompress(frame: bytes, limit: int, what: str) -> bytes:
    """The raw bytes of a frame.

    Args:
        limit: most bytes that may come out.
        what: what the frame holds, for messages.

    Raises:
        BadModel: the frame is damaged, states no size, or holds more than `limit` bytes.
    """
    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= limit:
            raise BadModel(f"{what} is damaged: its frame announces {size} bytes, 0 to {limit} are possible")
        # An empty frame has no content to decompress, and the library refuses a bound of 0.
        raw = zstandard.ZstdDecompressor().decompress(frame, max_output_size=max(size, 1))
    except zstandard.ZstdError as error:
        raise BadModel(f"{what} is damaged: {error}") from error
    if len(raw) != size:
        raise BadModel(f"{what} is damaged: its frame announces {size} bytes and holds {len(raw)}")
    return raw

"""What a request is answered with that is not carried out to its end: a result of the kind that its requester waits
for.

Pure. Of a request that cannot be read, what can be read is returned.
"""

from __future__ import annotations

from collections.abc import Mapping

from streams.ids import StreamID
from streams.records import PredictionResult, TrainingResult

Fields = Mapping[bytes, bytes]
Result = PredictionResult | TrainingResult
Answer = tuple[StreamID, Result]

PREDICT = b"predict"


def without_work(entry: StreamID, fields: Fields, status: str, reason: str) -> Result:
    """The result of a request that was `refused`, or `failed` as a whole.

    Args:
        fields: those of the request; empty if its entry was deleted.
    """

    def text(*names: bytes) -> str:
        found = next((fields[name] for name in names if name in fields), b"")
        return found.decode("utf-8", "replace")[:128]

    if not fields:
        reason = "the request's entry was deleted before it was carried out: post it again"
    request_id = text(b"id") or None
    if fields.get(b"kind") == PREDICT:
        model = text(b"model")
        return PredictionResult(request=str(entry), id=request_id, model=model, status=status, reason=reason)
    series = text(b"series", b"table", b"dataset")
    return TrainingResult(request=str(entry), id=request_id, series=series, status=status, reason=reason)

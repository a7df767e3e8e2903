"""The requesters' side: post requests, and wait for what became of those to train.

Writes `red10:{T}:requests`, reads `red10:{T}:results`; owns neither. Owns

    red10:{T}:posted   zset   ids of requests that are posted once only (`post_once`) -> when, ms; the last `KEPT_IDS`

Waiting can be broken off and begun again at any time: results are found by the request's entry id, and the first one
counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import Any, cast

import redis
from redis.exceptions import RedisError

from streams.clients import Backoff, Verdict, classify
from streams.errors import Red10Error
from streams.ids import StreamID
from streams.keys import Keys
from streams.records import PredictionRequest, TableRequest, TrainingRequest, TrainingResult

Request = TrainingRequest | TableRequest | PredictionRequest

#: How far before the first request's id results are looked for, ms: Redis's clock may have been set back in between.
SLACK_MS = 60_000
#: How long one read of the results waits, ms; the client's time-out must lie above it.
BLOCK_MS = 500
#: Ids of requests that are remembered, so that each is posted once.
KEPT_IDS = 10_000


class ResultsLate(Red10Error):
    """Not every request was answered in time; carries `missing`, the ids without a result, and `found`."""

    def __init__(
        self, missing: Iterable[StreamID], found: dict[StreamID, TrainingResult], timeout_s: float, why: str | None
    ) -> None:
        self.missing = tuple(missing)
        self.found = found
        cause = f"the last try failed with: {why}" if why else "is a trainer running? `red10 up` starts one"
        super().__init__(
            f"{len(self.missing)} of {len(self.missing) + len(found)} training requests have no result after "
            f"{timeout_s:g} s; {cause}. The requests stay in the stream and will be done"
        )


def post_request(client: redis.Redis, keys: Keys, request: Request) -> StreamID:
    """Append a request.

    Returns:
        The request's entry id, by which its result is found.

    Raises:
        redis.RedisError: as the driver raises it; if the reply was lost, the request may have been posted.
    """
    fields: dict[Any, Any] = {**request.to_fields()}
    return StreamID.parse(cast(bytes, client.xadd(keys.requests, fields)))


def post_requests(client: redis.Redis, keys: Keys, requests: Iterable[Request]) -> list[StreamID]:
    """Append several in one transaction, so that an idle trainer takes them as one batch: one release, one save.

    Returns:
        Entry ids, in order.

    Raises:
        redis.RedisError: as `post_request`.
    """
    with client.pipeline(transaction=True) as pipe:
        for request in requests:
            fields: dict[Any, Any] = {**request.to_fields()}
            pipe.xadd(keys.requests, fields)
        return [StreamID.parse(entry) for entry in pipe.execute()]


def post_once(client: redis.Redis, keys: Keys, request: TrainingRequest) -> StreamID | None:
    """Append a training request unless one with its id was posted this way before; safe to repeat.

    Returns:
        The request's entry id; `None` if it was posted before.

    Raises:
        ValueError: the request has no id.
        redis.RedisError: as `post_request`.
    """
    if request.id is None:
        raise ValueError("a request that is posted once needs an id")
    fields = [text for pair in request.to_fields().items() for text in pair]
    script = files("streams").joinpath("append_once.lua").read_text("utf-8")
    found: Any = client.eval(script, 2, keys.requests, keys.posted, str(KEPT_IDS), request.id, *fields)
    return None if found is None else StreamID.parse(found)


def request_of(fields: Mapping[bytes, bytes]) -> StreamID | None:
    """The request that an entry of the results answers; `None` if it names none, and so is no result."""
    try:
        return StreamID.parse(fields[b"request"])
    except (KeyError, ValueError):
        return None


def wait_results(
    client: redis.Redis,
    keys: Keys,
    requests: Iterable[StreamID],
    *,
    timeout_s: float,
    progress: Callable[[TrainingResult], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[StreamID, TrainingResult]:
    """Wait until every request has a result; a Redis that is away meanwhile is waited for.

    Args:
        requests: ids as `post_request` gave them.
        progress: called once with each result, as it comes.
        clock: seconds, monotonic.

    Returns:
        Request id -> its result, in the order of `requests`.

    Raises:
        ResultsLate: the time-out passed.
        redis.RedisError: waiting will not help, such as missing permissions.
        BadRecord: the result of one of these requests is malformed; what else is in the stream is passed over.
    """
    wanted = dict.fromkeys(requests)
    if not wanted:
        return {}
    found: dict[StreamID, TrainingResult] = {}
    deadline = clock() + timeout_s
    after = str(StreamID(max(0, min(wanted).ms - SLACK_MS), 0))
    backoff = Backoff()
    trouble: str | None = None
    while len(found) < len(wanted):
        left_s = deadline - clock()
        if left_s <= 0:
            missing = [request for request in wanted if request not in found]
            raise ResultsLate(missing, found, timeout_s, trouble)
        try:
            after, entries = _next_entries(client, keys.results, after, max(1, min(BLOCK_MS, int(left_s * 1000))))
        except (RedisError, OSError) as error:
            if classify(error) is not Verdict.RETRY:
                raise
            trouble = str(error)
            time.sleep(min(backoff.next(), left_s))
            continue
        trouble = None
        backoff.reset()
        for fields in entries:
            request = request_of(fields)
            if request is not None and request in wanted and request not in found:
                found[request] = result = TrainingResult.from_fields(fields)
                if progress is not None:
                    progress(result)
    return {request: found[request] for request in wanted}


def _next_entries(client: redis.Redis, key: str, after: str, block_ms: int) -> tuple[str, list[dict[bytes, bytes]]]:
    """The fields of the entries that follow, and the id to go on after."""
    streams: dict[Any, Any] = {key: after}
    reply = cast(
        list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]], client.xread(streams, count=1000, block=block_ms)
    )
    entries = reply[0][1] if reply else []
    return (entries[-1][0].decode() if entries else after), [fields for _, fields in entries]

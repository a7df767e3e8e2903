"""A poster: asks for training, once, as `red10 train` does.

    python -m tests.chaos.poster URL TENANT SERIES ID [MUTANT]

Whether a request whose reply was lost was posted cannot be known, and it is not posted again.
"""

from __future__ import annotations

import sys

from consumers.requests import post_request
from streams.clients import connect
from streams.ids import StreamID
from streams.keys import Keys
from streams.records import TrainingRequest
from tests.chaos.mutants import MUTANTS


def post(url: str, tenant: str, series: str, name: str) -> StreamID:
    """Post one request.

    Raises:
        redis.RedisError: it may have been posted or not.
    """
    with connect(url) as client:
        return post_request(client, Keys(tenant), TrainingRequest(series=series, id=name))


if __name__ == "__main__":
    for mutant in sys.argv[5:]:
        MUTANTS[mutant]()
    post(*sys.argv[1:5])

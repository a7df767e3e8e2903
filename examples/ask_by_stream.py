"""Predict through the streams alone, as a program in any language can. Needs a trainer, and RED10_STREAMS_URL."""

import json
import os
from typing import Any

import redis

client: Any = redis.Redis.from_url(os.environ["RED10_STREAMS_URL"], decode_responses=True)
flower = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
question = {"kind": "predict", "model": "iris/species", "rows": json.dumps([flower])}
request = client.xadd("red10:{default}:requests", question)
[(_, answers)] = client.xread({"red10:{default}:predictions": request}, block=30_000)
print(*(answer["labels"] for _, answer in answers if answer["request"] == request))

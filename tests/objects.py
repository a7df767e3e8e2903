"""A store of objects that speaks S3, for tests: moto's server, a process of its own on the loopback interface."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


class ObjectServer:
    """Serves buckets from memory until it is closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        host, port = self._process.stdout.readline().split()
        self.url = f"http://{host}:{port}"

    def client(self) -> Any:
        """A client of boto3, to look behind the code."""
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.url, aws_access_key_id="x", aws_secret_access_key="x", region_name="us-east-1"
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

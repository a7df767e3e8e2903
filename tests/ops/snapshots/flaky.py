"""A proxy in front of a store of objects that fails as told: refuses, closes, is silent, cuts answers short."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import urlsplit

Fault = Literal["503", "close", "silent", "cut", "drip", "redirect", "no store", "no checksums", "lost reply"]
#: Method, path and headers of a request -> what goes wrong with it.
Faults = Callable[[str, str, Mapping[str, str]], Fault | None]

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
NO_CHECKSUMS = b"<Error><Code>NotImplemented</Code><Message>A header you provided is unknown.</Message></Error>"


def sound(method: str, path: str, headers: Mapping[str, str]) -> Fault | None:
    return None


class FlakyStore:
    """Listens on loopback until it is closed.

    Attributes:
        faults: asked about each request; may be replaced at any time.
        seen: method and path of each request.
    """

    def __init__(self, behind: str) -> None:
        self.faults: Faults = sound
        self.seen: list[tuple[str, str]] = []
        self.silence_s = 3.0
        store = self
        where = urlsplit(behind).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def handle_request(self) -> None:
                store.handle(self, where)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request  # noqa: N815

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that went away is what is tested here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def handle(self, request: BaseHTTPRequestHandler, where: str) -> None:
        method, path = request.command, request.path
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        self.seen.append((method, path))
        fault = self.faults(method, path, dict(request.headers))
        if fault == "close":
            request.close_connection = True
        elif fault == "silent":
            time.sleep(self.silence_s)
            request.close_connection = True
        elif fault == "503":
            self._answer(request, 503, {}, BUSY)
        elif fault == "redirect":
            self._answer(request, 301, {"Location": self.url + path}, b"")
        elif fault == "no store":
            self._answer(request, 200, {}, b"<html><body>Log in to the network</body></html>")
        elif fault == "no checksums" and any("checksum" in name.lower() for name in request.headers):
            self._answer(request, 501, {}, NO_CHECKSUMS)
        else:
            behind = http.client.HTTPConnection(where)
            behind.request(method, path, body, dict(request.headers))
            reply = behind.getresponse()
            data, headers = reply.read(), dict(reply.getheaders())
            behind.close()
            if fault == "lost reply":
                request.close_connection = True
            else:
                self._answer(request, reply.status, headers, data, cut=fault == "cut", drip=fault == "drip")

    def _answer(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: Mapping[str, str],
        data: bytes,
        cut: bool = False,
        drip: bool = False,
    ) -> None:
        request.send_response_only(status)
        kept = {name: value for name, value in headers.items() if name.lower() not in ("connection", "content-length")}
        length = headers.get("Content-Length", str(len(data))) if request.command == "HEAD" else str(len(data))
        for name, value in (kept | {"Content-Length": length}).items():
            request.send_header(name, value)
        request.end_headers()
        if drip:
            for byte in data:
                request.wfile.write(bytes([byte]))
                time.sleep(0.02)
        elif request.command != "HEAD":
            request.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            request.close_connection = True

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def times(count: int, fault: Fault, method: str, part: str = "") -> Faults:
    """The first requests of a kind fail, the others do not."""
    left = [count]

    def faults(asked: str, path: str, headers: Mapping[str, str]) -> Fault | None:
        if asked == method and part in path and left[0] > 0:
            left[0] -= 1
            return fault
        return None

    return faults

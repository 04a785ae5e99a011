"""What the tests share: waiting for states, and speaking to the edge without the SDK."""

import base64
import http.client
import os
import socket
import struct
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import pytest

#: The SDK release under test, as a tuple that compares.
RELEASE = tuple(int(part) for part in version("e2b").split("."))

#: From this release on sandboxes are made by `POST /v2/sandboxes`, and are always secured.
ALWAYS_SECURE = RELEASE >= (2, 51, 0)

#: What only the newest release can ask for.
NEWEST = pytest.mark.skipif(
    RELEASE < (2, 63, 0), reason="skipped, because this release does not have it"
)

ENVD_PORT = 49983

REPOSITORY = Path(os.environ["COFFERDAM_REPOSITORY"])
GUEST = REPOSITORY / "tests/sdk/guest"


def wait_for(what, predicate, limit=60.0):
    """Waits until `predicate` answers something true, and answers that."""
    deadline = time.monotonic() + limit
    while not (answer := predicate()):
        assert time.monotonic() < deadline, f"{what} did not happen within {limit} s"
        time.sleep(0.05)
    return answer


def start_server(sandbox, command, user=None):
    """Starts a command that is to live as long as the sandbox."""
    return sandbox.commands.run(command, background=True, timeout=0, user=user)


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self):
        return self.body.decode()


class Edge:
    """The service's one port, spoken to in plain HTTP."""

    def __init__(self):
        url = urlsplit(os.environ["E2B_SANDBOX_URL"])
        self.host, self.port = url.hostname, url.port

    def request(self, method, path, headers=None, body=None, host=None):
        """One request; `host` replaces the Host header, and no name is resolved."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", host or f"{self.host}:{self.port}")
            for name, value in (headers or {}).items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path, headers=None, host=None):
        return self.request("GET", path, headers, host=host)

    def by_headers(self, sandbox, port, path="/", **headers):
        """A request to a port of a sandbox, routed by headers."""
        return self.get(path, {**routing(sandbox.sandbox_id, port), **headers})

    def by_name(self, sandbox, port, path="/", **headers):
        """A request to a port of a sandbox, routed by host name."""
        return self.get(path, headers, host=sandbox.get_host(port))

    def websocket(self, path="/", headers=None, host=None):
        return WebSocket(self, path, headers or {}, host or f"{self.host}:{self.port}")


def routing(sandbox_id, port):
    return {"E2b-Sandbox-Id": sandbox_id, "E2b-Sandbox-Port": str(port)}


class WebSocket:
    """The client's half of RFC 6455, for messages in one frame."""

    def __init__(self, edge, path, headers, host):
        self._socket = socket.create_connection((edge.host, edge.port), timeout=30)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self._reader = self._socket.makefile("rb")
        self.status = int(self._reader.readline().split()[1])
        while self._reader.readline().strip():
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reader.close()
        self._socket.close()

    def echo(self, payload):
        """Sends one binary message and answers the next one that comes back."""
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            head = struct.pack(">BB", 0x82, 0x80 | length)
        elif length < 1 << 16:
            head = struct.pack(">BBH", 0x82, 0x80 | 126, length)
        else:
            head = struct.pack(">BBQ", 0x82, 0x80 | 127, length)
        masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
        self._socket.sendall(head + mask + masked)
        return self._receive()

    def _receive(self):
        _, length = struct.unpack(">BB", self._reader.read(2))
        if length == 126:
            (length,) = struct.unpack(">H", self._reader.read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._reader.read(8))
        return self._reader.read(length)

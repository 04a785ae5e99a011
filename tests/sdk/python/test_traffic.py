"""Reaching what runs in a sandbox through the edge: by headers, by host name, by signed link."""

import hashlib
import http.client
import json
import os
from urllib.parse import urlsplit

import pytest
from e2b import Sandbox
from support import ENVD_PORT, GUEST, routing, start_server, wait_for


def serve_files(sandbox, address="0.0.0.0"):
    """A web server in the sandbox, on port 8000, that serves one page."""
    sandbox.files.write("/srv/www/index.html", "hello from inside", user="root")
    command = f"cd /srv/www && python3 -m http.server --bind {address} 8000"
    return start_server(sandbox, command)


def path_of(link):
    parts = urlsplit(link)
    return f"{parts.path}?{parts.query}"


def test_a_web_server_is_reached_by_headers_and_by_host_name(sandbox, edge):
    serve_files(sandbox)
    wait_for("the server", lambda: edge.by_headers(sandbox, 8000).status == 200)
    by_headers, by_name = edge.by_headers(sandbox, 8000), edge.by_name(sandbox, 8000)
    assert by_headers.text == by_name.text == "hello from inside"
    assert by_headers.headers["Server"].startswith("SimpleHTTP")
    assert edge.by_name(sandbox, 8000, "/missing").status == 404


def test_a_server_that_listens_to_itself_only_is_reached_too(sandbox, edge):
    serve_files(sandbox, address="127.0.0.1")
    wait_for("the server", lambda: edge.by_name(sandbox, 8000).status == 200)
    assert edge.by_headers(sandbox, 8000).text == "hello from inside"


def test_a_request_reaches_the_server_as_it_was_sent(sandbox, edge):
    script = """
import http.server, json
class Mirror(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        told = {"path": self.path, "headers": dict(self.headers), "body": body}
        self.send_response(202)
        self.send_header("X-Reply", "yes")
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())
http.server.HTTPServer(("0.0.0.0", 9000), Mirror).serve_forever()
"""
    sandbox.files.write("/tmp/mirror.py", script)
    start_server(sandbox, "python3 /tmp/mirror.py")
    host = sandbox.get_host(9000)
    send = lambda: edge.request("POST", "/a%20b?c=d&e", {"X-Own": "1"}, b"text", host=host)
    answer = wait_for("the server", lambda: (got := send()).status == 202 and got)
    told = json.loads(answer.body)
    assert answer.headers["X-Reply"] == "yes"
    assert (told["path"], told["body"]) == ("/a%20b?c=d&e", "text")
    assert told["headers"]["X-Own"] == "1"
    assert told["headers"]["Host"] == host


def test_an_answer_is_streamed_as_it_is_made(sandbox, edge):
    # The server goes on only when a file appears that the client makes after the first part.
    script = """
import http.server, os, time
class Slow(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == "/ready":
            return
        self.wfile.write(b"first")
        self.wfile.flush()
        while not os.path.exists("/tmp/go"):
            time.sleep(0.05)
        self.wfile.write(b"second")
http.server.ThreadingHTTPServer(("0.0.0.0", 9000), Slow).serve_forever()
"""
    sandbox.files.write("/tmp/slow.py", script)
    start_server(sandbox, "python3 /tmp/slow.py")
    wait_for("the server", lambda: edge.by_headers(sandbox, 9000, "/ready").status == 200)
    connection = http.client.HTTPConnection(edge.host, edge.port, timeout=30)
    connection.request("GET", "/", headers=routing(sandbox.sandbox_id, 9000))
    answer = connection.getresponse()
    assert answer.read(5) == b"first"
    sandbox.files.write("/tmp/go", "")
    assert answer.read() == b"second"
    connection.close()


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
@pytest.mark.parametrize("way", ["headers", "host name"])
def test_a_websocket_echoes_messages_of_all_sizes(sandbox, edge, way, address):
    sandbox.files.write("/tmp/echo.py", (GUEST / "echo_server.py").read_text())
    start_server(sandbox, f"python3 /tmp/echo.py {address} 7000")

    def dial():
        if way == "headers":
            return edge.websocket(headers=routing(sandbox.sandbox_id, 7000))
        return edge.websocket(host=sandbox.get_host(7000))

    def is_up():
        with dial() as attempt:
            return attempt.status == 101

    wait_for("the server", is_up)
    with dial() as socket:
        for size in (0, 5, 1000, 100_000):
            message = hashlib.shake_256(b"%d" % size).digest(size)
            assert socket.echo(message) == message


def test_a_closed_port_is_502_and_says_which(sandbox, edge):
    for answer in (edge.by_headers(sandbox, 5555), edge.by_name(sandbox, 5555)):
        assert answer.status == 502
        told = json.loads(answer.body)
        assert told["sandboxId"] == sandbox.sandbox_id
        assert (told["port"], told["code"]) == (5555, 502)
        assert told["message"]


def test_a_sandbox_that_is_not_there_is_502_and_not_found(edge):
    nobody = "i" + "0" * 20
    domain = os.environ["E2B_DOMAIN"]
    for answer in (
        edge.get("/", routing(nobody, 8000)),
        edge.get("/", host=f"8000-{nobody}.{domain}"),
    ):
        assert answer.status == 502
        told = json.loads(answer.body)
        assert (told["sandboxId"], told["code"]) == (nobody, 502)
        assert "not found" in told["message"]


def test_a_malformed_sandbox_or_port_is_a_bad_request(sandbox, edge):
    assert edge.get("/", routing("No-Such--Thing!", 80)).status == 400
    assert edge.get("/", routing(sandbox.sandbox_id, "http")).status == 400


def test_any_host_name_will_do_when_headers_route(sandbox, edge):
    answer = edge.get("/health", routing(sandbox.sandbox_id, ENVD_PORT), host="box.local:8080")
    assert answer.status == 204


def test_signed_links_fetch_and_store_files_without_a_token(sandbox, edge):
    host = sandbox.get_host(ENVD_PORT)
    sandbox.files.write("/tmp/my file", "signed")
    download = path_of(sandbox.download_url("/tmp/my file"))
    answer = edge.get(download, host=host)
    assert (answer.status, answer.text) == (200, "signed")
    assert edge.get(download.replace("my%20file", "other"), host=host).status == 401

    upload = path_of(sandbox.upload_url("/tmp/up", use_signature_expiration=60))
    boundary = "cofferdam-part"
    body = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="up"\r\n'
        f"\r\nuploaded\r\n--{boundary}--\r\n"
    ).encode()
    form = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert edge.request("POST", upload, form, body, host=host).status == 200
    assert sandbox.files.read("/tmp/up") == "uploaded"
    assert edge.get(upload, host=host).status == 401, "a link to write is not one to read"


def test_an_expired_link_is_refused(sandbox, edge):
    sandbox.files.write("/tmp/file", "late")
    link = path_of(sandbox.download_url("/tmp/file", use_signature_expiration=-10))
    assert edge.get(link, host=sandbox.get_host(ENVD_PORT)).status == 401


def test_links_point_at_the_sandbox_when_no_shared_address_is_set(create, monkeypatch, edge):
    sandbox = create()
    sandbox.files.write("/tmp/file", "by name")
    monkeypatch.delenv("E2B_SANDBOX_URL")
    link = urlsplit(Sandbox.connect(sandbox.sandbox_id).download_url("/tmp/file"))
    assert link.netloc == sandbox.get_host(ENVD_PORT)
    assert edge.get(f"{link.path}?{link.query}", host=link.netloc).text == "by name"

"""What a sandbox may reach, and who may reach it."""

import http.client
from urllib.parse import urlsplit

import pytest
from e2b import ALL_TRAFFIC, Sandbox, SandboxException
from support import ENVD_PORT, GUEST, NEWEST, routing, start_server, wait_for

#: Addresses that are nobody's (RFC 5737): what leads there is decided before anything is sent.
HERE, THERE = "192.0.2.1", "198.51.100.1"


def has_way(sandbox, address):
    """Whether the sandbox's network leads to `address`; nothing is sent."""
    return sandbox.commands.run(f"ip route get {address} || true").stdout != ""


def fetch(link):
    """What somebody gets who has nothing but the link."""
    parts = urlsplit(link)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request("GET", f"{parts.path}?{parts.query}")
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_rules_by_address_hold_from_the_start(create):
    rules = {"deny_out": [ALL_TRAFFIC], "allow_out": [HERE]}
    sandbox = create(network=rules)
    assert (has_way(sandbox, HERE), has_way(sandbox, THERE)) == (True, False)
    told = sandbox.get_info().network
    assert (told["deny_out"], told["allow_out"]) == ([ALL_TRAFFIC], [HERE])


def test_rules_can_be_changed_while_it_runs(sandbox):
    assert (has_way(sandbox, HERE), has_way(sandbox, THERE)) == (True, True)
    sandbox.update_network({"deny_out": [f"{THERE}/24"]})
    assert (has_way(sandbox, HERE), has_way(sandbox, THERE)) == (True, False)
    sandbox.update_network({})
    assert (has_way(sandbox, HERE), has_way(sandbox, THERE)) == (True, True)


#: What a program gets that asks for `host` at an address that is nobody's.
ASK = "exec 3<>/dev/tcp/192.0.2.1/80; printf 'GET / HTTP/1.1\\r\\nHost: {}\\r\\n\\r\\n' >&3; timeout 20 cat <&3"


def asked(sandbox, host):
    return sandbox.commands.run(f"bash -c \"{ASK.format(host)}\" || true").stdout


def test_rules_by_name_hold_from_the_start_and_can_be_changed(create):
    rules = {"deny_out": [ALL_TRAFFIC], "allow_out": ["name.invalid", "*.example.com"]}
    sandbox = create(network=rules)
    # The one is looked up and not there (RFC 6761), the other is not asked for anywhere.
    assert "502 Bad Gateway" in asked(sandbox, "name.invalid")
    refused = asked(sandbox, "example.com")
    assert "403 Forbidden" in refused and "do not allow example.com" in refused
    told = sandbox.get_info().network
    assert told["allow_out"] == rules["allow_out"]
    sandbox.update_network({"deny_out": [ALL_TRAFFIC], "allow_out": ["other.invalid"]})
    assert "403 Forbidden" in asked(sandbox, "name.invalid")
    sandbox.update_network({"deny_out": [HERE]})
    assert (has_way(sandbox, HERE), has_way(sandbox, THERE)) == (False, True)


def test_the_password_of_a_proxy_is_not_told(create):
    proxy = {"address": "192.0.2.1:1080", "username": "u", "password": "hunter2"}
    sandbox = create(network={"egress_proxy": proxy})
    assert "hunter2" not in str(sandbox.get_info())


def test_a_private_sandbox_asks_for_its_token(create, edge):
    sandbox = create(network={"allow_public_traffic": False})
    start_server(sandbox, "python3 -m http.server --bind 0.0.0.0 8000")
    to_server = routing(sandbox.sandbox_id, 8000)
    token = {"e2b-traffic-access-token": sandbox.traffic_access_token}
    wait_for("the server", lambda: edge.get("/", {**to_server, **token}).status == 200)
    assert edge.get("/", to_server).status == 403
    assert edge.get("/", {**to_server, "e2b-traffic-access-token": "other"}).status == 403
    assert edge.get("/health", routing(sandbox.sandbox_id, ENVD_PORT)).status == 204


def test_a_link_is_all_it_takes_to_fetch_a_file(create):
    sandbox, other = create(), create()
    for each in (sandbox, other):
        each.files.write("/tmp/my file", each.sandbox_id)
    for each in (sandbox, other):
        assert fetch(each.download_url("/tmp/my file")) == (200, each.sandbox_id)
    link = sandbox.download_url("/tmp/my file", use_signature_expiration=-10)
    status, text = fetch(link)
    assert status == 401 and "expired" in text
    link = sandbox.download_url("/tmp/my file")
    assert fetch(link.replace("my", "your"))[0] == 401
    sandbox.kill()
    assert fetch(link)[0] == 401


@NEWEST
def test_a_program_that_speaks_https_is_reached_on_the_ports_that_say_so(create, edge):
    sandbox = create(network={"https_ports": [8443]})
    assert sandbox.get_info().network["https_ports"] == [8443]
    sandbox.files.write("/tmp/https.py", (GUEST / "https_server.py").read_text())
    for port in (8443, 9443):
        start_server(sandbox, f"python3 /tmp/https.py 0.0.0.0 {port}")
    wait_for("the server", lambda: edge.by_name(sandbox, 8443).status == 200)
    for answer in (edge.by_name(sandbox, 8443), edge.by_headers(sandbox, 8443)):
        assert answer.status == 200
    assert edge.by_name(sandbox, 8443).text == sandbox.get_host(8443)
    assert edge.by_name(sandbox, 9443).status != 200, "it is spoken to in plain HTTP"
    sandbox.update_network({"deny_out": ["192.0.2.1"]})
    sandbox.pause()
    sandbox.connect()
    assert edge.by_name(sandbox, 8443).status == 200


@NEWEST
@pytest.mark.parametrize("servers", [["192.0.2.1"], []])
def test_name_servers_are_allowed_and_told(create, servers):
    rules = {"allow_out": ["a.com"], "deny_out": ["0.0.0.0/0"], "dns_servers": servers}
    sandbox = create(network=rules)
    assert sandbox.get_info().network["dns_servers"] == servers
    send = "bash -c 'echo x > /dev/udp/192.0.2.1/53' 2>/dev/null && echo sent || true"
    assert sandbox.commands.run(send).stdout == ("sent\n" if servers else "")


@NEWEST
def test_a_proxy_can_be_spoken_to_in_tls_and_its_certificates_are_not_told(create):
    begin = "-----BEGIN CERTIFICATE-----"
    certificate = (GUEST / "https_server.py").read_text().split(begin)[1].split('"""')[0]
    tls = {"server_name": "p.example", "ca_cert": begin + certificate}
    sandbox = create(network={"egress_proxy": {"address": "192.0.2.1:1080", "tls": tls}})
    told = sandbox.get_info().network["egress_proxy"]
    assert told == {"address": "192.0.2.1:1080", "tls": {"server_name": "p.example"}}
    sandbox.update_network({"egress_proxy": {"address": "192.0.2.1:1080", "tls": True}})
    assert sandbox.get_info().network["egress_proxy"] == {"address": "192.0.2.1:1080", "tls": {}}
    sandbox.update_network({"egress_proxy": {"address": "192.0.2.1:1080"}})
    assert "tls" not in sandbox.get_info().network["egress_proxy"]


@pytest.mark.parametrize(
    ("network", "part"),
    [
        ({"allow_out": ["example.com"]}, "400: network.allowOut"),
        ({"egress_proxy": {"address": "10.0.0.1:1080"}}, "400: network.egressProxy"),
        ({"rules": {"a b": [{"transform": {"headers": {"a": "b"}}}]}}, "400: network.rules"),
        ({"deny_out": ["example.com"]}, "400: network.denyOut"),
        pytest.param({"https_ports": [ENVD_PORT]}, "400: network.httpsPorts", marks=NEWEST),
        pytest.param(
            {"allow_out": ["a.com"], "deny_out": ["0.0.0.0/0"], "dns_servers": ["a"]},
            "400: network.dnsServers",
            marks=NEWEST,
        ),
        pytest.param(
            {"egress_proxy": {"address": "proxy.example:1080", "tls": {"ca_cert": "/ca.pem"}}},
            "400: network.egressProxy.tls: caCert",
            marks=NEWEST,
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(network, part):
    with pytest.raises(SandboxException, match=part):
        Sandbox.create(network=network)

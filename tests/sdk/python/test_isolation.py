"""What a sandbox can and cannot reach, and what it can see of its host."""

import contextlib
import socket
import subprocess
import sys
import threading

import pytest
from e2b import CommandExitException
from support import GUEST, start_server, wait_for

#: Any public name and address will do; these two are meant for such use.
PUBLIC_NAME = "example.com"
PUBLIC_ADDRESS = ("1.1.1.1", 443)

#: Where cloud providers answer with a machine's credentials.
METADATA = "169.254.169.254"

#: The address a sandbox would use to speak to the outside, and the gateway it would speak through.
OWN_ADDRESS = (
    "python3 -c \"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
    " s.connect(('192.0.2.1', 9)); print(s.getsockname()[0])\""
)
GATEWAY = (
    "python3 -c \"import socket, struct\n"
    "for row in open('/proc/net/route'):\n"
    "    cells = row.split()\n"
    "    if cells[1] == '00000000':\n"
    "        print(socket.inet_ntoa(struct.pack('<L', int(cells[2], 16))))\""
)


def reach(sandbox, *targets):
    """Which of these `host:port` a sandbox can connect to."""
    sandbox.files.write("/tmp/reach.py", (GUEST / "reach.py").read_text())
    output = sandbox.commands.run(f"python3 /tmp/reach.py 3 {' '.join(targets)}").stdout
    told = dict(line.split(" ", 1) for line in output.splitlines())
    assert set(told) == set(targets)
    return {target for target, answer in told.items() if answer == "open"}


def host_addresses():
    listed = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True)
    return [address for address in listed.stdout.split() if ":" not in address]


@contextlib.contextmanager
def host_listener():
    """A listener on all addresses of the host; gives its port."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        threading.Thread(target=accept_all, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def accept_all(listener):
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def test_a_sandbox_reaches_itself(sandbox):
    start_server(sandbox, "python3 -m http.server 8000")
    wait_for("the server", lambda: reach(sandbox, "127.0.0.1:8000") == {"127.0.0.1:8000"})


def test_a_sandbox_does_not_reach_its_host(sandbox, edge):
    gateways = sandbox.commands.run(GATEWAY).stdout.split()
    assert gateways, "a sandbox without a gateway reaches nothing at all"
    with host_listener() as port:
        for address in host_addresses():
            # The listener is there, so that a refusal is the sandbox's and not its own.
            socket.create_connection((address, port), timeout=3).close()
        addresses = {*host_addresses(), *gateways}
        ports = {port, edge.port, 22}
        targets = [f"{address}:{port}" for address in addresses for port in ports]
        assert reach(sandbox, *targets, f"{METADATA}:80", f"{METADATA}:{port}") == set()


def test_sandboxes_do_not_reach_each_other(create, edge):
    one, two = create(), create()
    start_server(two, "python3 -m http.server 8000")
    wait_for("the server", lambda: edge.by_headers(two, 8000).status == 200)
    address = two.commands.run(OWN_ADDRESS).stdout.strip()
    assert reach(two, f"{address}:8000") == {f"{address}:8000"}
    # Every sandbox may have the same address inside; then there is nothing to reach it by.
    if one.commands.run(OWN_ADDRESS).stdout.strip() != address:
        assert reach(one, f"{address}:8000", f"{address}:49983") == set()


def test_a_sandbox_knows_a_name_server_and_reaches_it(sandbox):
    program = GUEST / "ask_name_server.py"
    sandbox.files.write("/tmp/ask.py", program.read_text())
    inside = sandbox.commands.run(f"python3 /tmp/ask.py {PUBLIC_NAME}").stdout
    assert inside, "/etc/resolv.conf names no server"
    ours = subprocess.run(
        [sys.executable, program, PUBLIC_NAME], capture_output=True, text=True, check=True
    ).stdout
    if " answered\n" not in ours:
        pytest.skip(f"skipped, because no name server answers this host: {ours}")
    assert " answered\n" in inside


def test_a_sandbox_resolves_names(sandbox):
    try:
        socket.getaddrinfo(PUBLIC_NAME, 80)
    except OSError as reason:
        pytest.skip(f"skipped, because this host cannot resolve {PUBLIC_NAME}: {reason}")
    assert sandbox.commands.run(f"getent hosts {PUBLIC_NAME}").stdout


def test_a_sandbox_reaches_the_internet(sandbox):
    try:
        socket.create_connection(PUBLIC_ADDRESS, timeout=3).close()
    except OSError as reason:
        pytest.skip(f"skipped, because this host cannot reach {PUBLIC_ADDRESS[0]}: {reason}")
    target = ":".join(map(str, PUBLIC_ADDRESS))
    assert reach(sandbox, target) == {target}


def test_a_sandbox_sees_only_its_own_processes(sandbox):
    # PID 1 is the agent; the shell and what it runs are the rest.
    numbers = sandbox.commands.run("ls /proc | grep -c '^[0-9]'").stdout
    assert int(numbers) < 10
    assert "envd" in sandbox.commands.run("cat /proc/1/comm").stdout


def test_root_in_a_sandbox_is_not_root_on_the_host(sandbox):
    mapping = sandbox.commands.run("cat /proc/self/uid_map", user="root").stdout.split()
    assert mapping[0] == "0" and int(mapping[1]) >= 65536
    for command in (
        "mount -t tmpfs none /mnt",
        "echo 1 > /proc/sys/kernel/sysrq",
        "mknod /tmp/disk b 8 0 && head -c1 /tmp/disk",
        "ip link set lo down",
    ):
        with pytest.raises(CommandExitException):
            sandbox.commands.run(command, user="root")

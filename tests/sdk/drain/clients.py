"""Clients that make sandboxes all the time, an operator who ends the node under them, and the
check that what both were told fits together."""

import http.client
import json
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import e2b
from e2b import NotFoundException, Sandbox
from support import RELEASE, wait_for

WORKERS = 4

#: Sandboxes a worker leaves running; it ends all others itself.
KEPT = 4

#: Seconds a sandbox lives if nobody ends it: above the limit of a test.
LIFETIME = 180

#: What a create raises when the service cannot take it.
Refused = getattr(e2b, "ServiceBusyException", e2b.SandboxException)

#: Newer releases try a refused create again for minutes, if they are let.
ONCE = {"retries": 0} if RELEASE >= (2, 51, 0) else {}


class Operator:
    """The endpoints for operators, about the one node there is."""

    def __init__(self):
        url = urlsplit(os.environ["E2B_API_URL"])
        self._address = (url.hostname, url.port)
        (node,) = self._call("GET", "/nodes")[1]
        self._path = f"/nodes/{node['id']}"

    def _call(self, method, path, body=None):
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        headers = {
            "X-Admin-Token": os.environ["COFFERDAM_ADMIN_TOKEN"],
            "Content-Type": "application/json",
        }
        try:
            connection.request(method, path, body and json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        finally:
            connection.close()

    def ask_for(self, status, force=False):
        """Asks for a status; answers what the HTTP answer is."""
        body = {"status": status, **({"forceStop": True} if force else {})}
        return self._call("POST", self._path, body)[0]

    def drain(self):
        return self._call("GET", self._path + "/drain")[1]

    def leaked(self):
        return self._call("GET", self._path + "/leaks")[1]["leaked"]

    def sandboxes(self):
        return self._call("GET", self._path + "/sandboxes")[1]


class Clients:
    """Workers that create, use, and now and then kill. What they were told is kept."""

    def __init__(self):
        self.closed = threading.Event()  # The operator was told that the node drains.
        self.forced = threading.Event()  # The operator is about to ask for force.
        self.enough = threading.Event()
        self.lock = threading.Lock()
        self.returned = set()
        self.killed = set()
        self.kept = []
        self.refused = [0] * WORKERS
        #: Those whose create, command or kill met the force, with what was raised.
        self.cut = {}
        #: Those whose start was cut off by the force; known at the end.
        self.undone = set()
        self.listed = set()
        self.snapshots = 0
        self._pool = ThreadPoolExecutor(WORKERS + 1)
        self._running = [self._pool.submit(self._work, number) for number in range(WORKERS)]
        self._running.append(self._pool.submit(self._watch))

    def stop(self):
        """Lets everyone finish; what went wrong in one of them is raised here."""
        self.enough.set()
        for worker in self._running:
            worker.result()
        self._pool.shutdown()

    def check(self):
        """Raises what has stopped a worker."""
        for worker in self._running:
            if worker.done():
                worker.result()
        return True

    def _work(self, number):
        kept = 0
        while not self.enough.is_set():
            closed = self.closed.is_set()
            try:
                sandbox = Sandbox.create(timeout=LIFETIME, metadata={"of": str(number)}, **ONCE)
            except Refused as refusal:
                assert str(refusal).startswith("503: "), f"{refusal!r}"
                assert "sandbox" in str(refusal), f"it says what was refused: {refusal!r}"
                self.refused[number] += 1
                # Refusals are cheap, and others have work to do.
                self.enough.wait(0.02)
                continue
            with self.lock:
                self.returned.add(sandbox.sandbox_id)
            assert not closed, f"{sandbox.sandbox_id} was made by a node that drains"
            if not self._use(sandbox):
                continue
            if kept < KEPT:
                kept += 1
                with self.lock:
                    self.kept.append(sandbox)
            else:
                self._kill(sandbox)

    def _use(self, sandbox):
        """Runs a command in it; false if it was ended by force meanwhile."""
        try:
            assert sandbox.commands.run("echo at work").stdout == "at work\n"
        except Exception as error:
            self._cut_off(sandbox, error)
            return False
        return True

    def _kill(self, sandbox):
        forced = self.forced.is_set()
        if sandbox.kill():
            with self.lock:
                self.killed.add(sandbox.sandbox_id)
        else:
            assert self.forced.is_set(), f"{sandbox.sandbox_id} was gone before, {forced=}"

    def _cut_off(self, sandbox, error):
        """What the force cut off is gone; anything else that fails is a fault."""
        if not self.forced.is_set():
            raise error
        with self.lock:
            self.cut[sandbox.sandbox_id] = type(error).__name__
        wait_for(f"the end of {sandbox.sandbox_id}", lambda: not sandbox.is_running())

    def _watch(self):
        while not self.enough.is_set():
            listed = list_all()
            with self.lock:
                self.listed |= listed
                self.snapshots += 1
            self.enough.wait(0.02)


def list_all():
    """The ids that `GET /v2/sandboxes` tells."""
    found, pages = set(), Sandbox.list(limit=100)
    while pages.has_next:
        found.update(info.sandbox_id for info in pages.next_items())
    return found


@dataclass
class Announced:
    """The ids the control plane said in its log to run, not to start, and to have ended."""

    runs: list[str]
    refused: list[str]
    ended: list[str]

    @classmethod
    def so_far(cls):
        log = Path(os.environ["SERVICE_LOG"]).read_text()
        create = r'create\{[^}]*sandbox\.id="(\w+)"\}: \S+ sandbox '
        return cls(
            runs=sorted(re.findall(create + "runs ", log)),
            refused=sorted(re.findall(create + "was refused ", log)),
            ended=sorted(
                re.findall(r"control_plane::watch: sandbox ended sandbox\.id=(\w+) ", log)
            ),
        )


def see_the_end(clients, operator):
    """After the force: nothing runs, nothing comes, there is no way back, and all accounts agree."""
    def is_over():
        drain = operator.drain()
        return drain["remaining"] == 0 and not drain["attempt"]["running"]

    wait_for("an empty node", lambda: clients.check() and is_over())
    refused = list(clients.refused)
    wait_for(
        "refusals of every worker",
        lambda: clients.check()
        and all(now > before for now, before in zip(clients.refused, refused, strict=True)),
    )
    drain = operator.drain()
    assert drain["accepting"] is False
    assert drain["attempt"]["failed"] == [], drain
    assert list_all() == set() and operator.sandboxes() == []
    clients.stop()

    assert operator.ask_for("draining") == 204
    assert operator.ask_for("draining", force=True) == 204
    for way_back in ("ready", "standby", "unhealthy"):
        assert operator.ask_for(way_back) == 409
    for sandbox in clients.kept:
        assert sandbox.is_running() is False
        try:
            sandbox.get_info()
        except NotFoundException:
            continue
        raise AssertionError(f"{sandbox.sandbox_id} is still known")

    assert clients.listed <= clients.returned, "one was listed whose create was refused"
    wait_for("news of every end", lambda: clients.returned <= set(Announced.so_far().ended))
    told = Announced.so_far()
    assert told.runs == sorted(clients.returned), "announced are those that were returned"
    assert not set(told.runs) & set(told.refused)
    assert len(told.ended) == len(set(told.ended)), "each has ended once"
    # A start that was under way and was undone has an end, too.
    clients.undone = set(told.ended) - clients.returned
    assert clients.undone <= set(told.refused)
    assert operator.leaked() == []


def counts(clients):
    return (
        f"{len(clients.returned)} created, {len(clients.killed)} killed by their clients, "
        f"{len(clients.kept)} kept, {len(clients.cut)} cut off {sorted(set(clients.cut.values()))}, "
        f"{sum(clients.refused)} refused ({len(clients.undone)} starts undone), "
        f"{len(clients.listed)} listed in {clients.snapshots} snapshots"
    )

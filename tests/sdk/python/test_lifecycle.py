"""The life of a sandbox: create, look at, list, prolong, join, end."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest
from e2b import (
    AuthenticationException,
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)
from support import ALWAYS_SECURE, ENVD_PORT, wait_for

#: A well-formed id that no sandbox has.
NOBODY = "i" + "0" * 20


def ids(paginator):
    found = []
    while paginator.has_next:
        found.extend(info.sandbox_id for info in paginator.next_items())
    return found


def listed(**metadata):
    return ids(Sandbox.list(query=SandboxQuery(metadata=metadata)))


def test_a_new_sandbox_answers_at_once(create):
    sandbox = create()
    assert sandbox.is_running() is True
    assert sandbox.commands.run("echo ready").stdout == "ready\n"


def test_information_about_a_sandbox_is_what_was_asked_for(create):
    before = datetime.now(timezone.utc)
    sandbox = create(timeout=100, metadata={"purpose": "info", "owner": "ünser & co"})
    info = sandbox.get_info()
    assert info.sandbox_id == sandbox.sandbox_id
    assert info.name == "base"
    assert info.state == SandboxState.RUNNING
    assert info.metadata == {"purpose": "info", "owner": "ünser & co"}
    assert abs(info.started_at - before) < timedelta(seconds=30)
    assert abs(info.end_at - info.started_at - timedelta(seconds=100)) < timedelta(seconds=2)
    assert info.cpu_count > 0 and info.memory_mb > 0
    assert Sandbox.get_info(sandbox.sandbox_id).sandbox_id == sandbox.sandbox_id


def test_a_killed_sandbox_is_gone(create):
    sandbox = create()
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    assert Sandbox.kill(sandbox.sandbox_id) is False
    assert sandbox.is_running() is False
    with pytest.raises(NotFoundException):
        sandbox.get_info()
    with pytest.raises(TimeoutException):
        sandbox.commands.run("true")
    with pytest.raises(TimeoutException):
        sandbox.files.read("/etc/hostname")


def test_a_running_command_ends_with_its_sandbox(create):
    sandbox = create()
    handle = sandbox.commands.run("sleep 1000", background=True, timeout=0)
    sandbox.kill()
    with pytest.raises(TimeoutException):
        handle.wait()


def test_what_never_was_is_not_found():
    assert Sandbox.kill(NOBODY) is False
    for call in (Sandbox.get_info, Sandbox.connect):
        with pytest.raises(NotFoundException):
            call(NOBODY)
    with pytest.raises(NotFoundException):
        Sandbox.set_timeout(NOBODY, 10)


def test_a_sandbox_ends_at_its_timeout(create):
    sandbox = create(timeout=5)
    assert sandbox.is_running() is True
    wait_for("the end of the sandbox", lambda: not sandbox.is_running())
    with pytest.raises(NotFoundException):
        sandbox.get_info()
    with pytest.raises(TimeoutException):
        sandbox.commands.run("true")


def test_a_timeout_can_be_moved_both_ways(create):
    sandbox = create(timeout=60)
    first = sandbox.get_info().end_at
    sandbox.set_timeout(170)
    assert sandbox.get_info().end_at > first + timedelta(seconds=60)
    sandbox.set_timeout(1)
    wait_for("the end of the sandbox", lambda: not sandbox.is_running())
    with pytest.raises(NotFoundException):
        sandbox.set_timeout(60)


def test_a_sandbox_is_listed_while_it_lives(create):
    mark = uuid.uuid4().hex
    sandbox = create(metadata={"mark": mark})
    assert listed(mark=mark) == [sandbox.sandbox_id]
    sandbox.kill()
    assert listed(mark=mark) == []


def test_a_list_is_filtered_by_metadata_and_state(create):
    mark = uuid.uuid4().hex
    red, blue = (create(metadata={"mark": mark, "colour": name}) for name in ("red & hot", "blue"))
    assert listed(mark=mark, colour="red & hot") == [red.sandbox_id]
    assert set(listed(mark=mark)) == {red.sandbox_id, blue.sandbox_id}
    running = SandboxQuery(metadata={"mark": mark}, state=[SandboxState.RUNNING])
    paused = SandboxQuery(metadata={"mark": mark}, state=[SandboxState.PAUSED])
    assert len(ids(Sandbox.list(query=running))) == 2
    assert ids(Sandbox.list(query=paused)) == []


def test_a_long_list_comes_in_pages(create):
    mark = uuid.uuid4().hex
    made = [create(metadata={"mark": mark}).sandbox_id for _ in range(5)]
    paginator = Sandbox.list(query=SandboxQuery(metadata={"mark": mark}), limit=2)
    pages = []
    while paginator.has_next:
        pages.append([info.sandbox_id for info in paginator.next_items()])
    assert [len(page) for page in pages] == [2, 2, 1]
    # The newest come first.
    assert [name for page in pages for name in page] == made[::-1]


def test_a_running_sandbox_can_be_joined(create):
    sandbox = create()
    sandbox.files.write("/tmp/note", "from the first client")
    joined = Sandbox.connect(sandbox.sandbox_id)
    assert joined.sandbox_id == sandbox.sandbox_id
    assert joined.files.read("/tmp/note") == "from the first client"


def test_joining_prolongs_a_sandbox_but_never_shortens_it(create):
    sandbox = create(timeout=120)
    first = sandbox.get_info().end_at
    sandbox.connect(timeout=10)
    assert sandbox.get_info().end_at >= first
    sandbox.connect(timeout=170)
    assert sandbox.get_info().end_at > first


def test_many_sandboxes_are_made_at_once(create):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: create(), range(8)))
        outputs = pool.map(lambda box: box.commands.run("echo ready").stdout, made)
        assert list(outputs) == ["ready\n"] * 8
    assert len({box.sandbox_id for box in made}) == 8


def test_a_wrong_key_is_refused():
    with pytest.raises(AuthenticationException):
        Sandbox.create(api_key="e2b_" + "0" * 40)
    with pytest.raises(AuthenticationException):
        Sandbox.list(api_key="e2b_" + "0" * 40).next_items()


def test_an_unknown_template_is_not_found():
    with pytest.raises(SandboxException) as refusal:
        Sandbox.create("no-such-template")
    assert str(refusal.value).startswith("404: ")
    assert "no-such-template" in str(refusal.value)


def test_a_lifetime_out_of_bounds_is_refused():
    with pytest.raises(SandboxException) as refusal:
        Sandbox.create(timeout=10**9)
    assert str(refusal.value).startswith("400: ")


def test_a_secured_sandbox_wants_its_token(create, edge):
    sandbox = create(secure=True)
    sandbox.files.write("/tmp/secret", "mine")
    answer = edge.by_headers(sandbox, ENVD_PORT, "/files?path=/tmp/secret")
    assert answer.status == 401
    call = {"Content-Type": "application/json", "Connect-Protocol-Version": "1"}
    for token in ({}, {"X-Access-Token": "0" * 64}):
        headers = {**call, **token, "E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(ENVD_PORT)}
        assert edge.request("POST", "/process.Process/List", headers, b"{}").status == 401
    assert edge.by_headers(sandbox, ENVD_PORT, "/health").status == 204


def test_an_unsecured_sandbox_is_open(create, edge):
    if ALWAYS_SECURE:
        pytest.skip("skipped, because this release always secures its sandboxes")
    sandbox = create(secure=False)
    sandbox.files.write("/tmp/public", "ours")
    answer = edge.by_headers(sandbox, ENVD_PORT, "/files?path=/tmp/public")
    assert (answer.status, answer.text) == (200, "ours")


def test_the_agents_own_controls_are_not_reachable_from_outside(sandbox, edge):
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": str(ENVD_PORT)}
    assert edge.request("POST", "/init", headers, b"{}").status == 404
    assert sandbox.commands.run("echo unharmed").stdout == "unharmed\n"


def test_metrics_of_a_sandbox_are_measured(sandbox):
    metrics = wait_for("a first measurement", sandbox.get_metrics)[-1]
    assert metrics.cpu_count > 0
    assert 0 <= metrics.cpu_used_pct <= 100 * metrics.cpu_count
    assert 0 < metrics.mem_used <= metrics.mem_total
    assert 0 < metrics.disk_used <= metrics.disk_total
    assert abs(metrics.timestamp - datetime.now(timezone.utc)) < timedelta(minutes=1)

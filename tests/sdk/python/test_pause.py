"""Pausing, resuming, snapshots and forks (docs/sdk.md)."""

import time
import uuid

import pytest
from e2b import (
    NotFoundException,
    Sandbox,
    SandboxException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)
from support import NEWEST, wait_for

FILE = "/home/user/kept"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


def state(sandbox):
    return Sandbox.get_info(sandbox.sandbox_id).state


def test_a_paused_sandbox_goes_on_with_all_it_had(sandbox):
    sandbox.files.write(FILE, "kept")
    sandbox.commands.run("sleep 1000", background=True)
    assert sandbox.pause() is True
    assert state(sandbox) == SandboxState.PAUSED
    assert sandbox.pause() is False
    assert not sandbox.is_running()
    paused = Sandbox.list(query=SandboxQuery(state=[SandboxState.PAUSED])).next_items()
    assert sandbox.sandbox_id in [row.sandbox_id for row in paused]
    same = Sandbox.connect(sandbox.sandbox_id)
    assert same.files.read(FILE) == "kept"
    # A shell starts it, which may not have got there before the pause.
    count = "pgrep -c sleep || true"
    wait_for("its program", lambda: same.commands.run(count).stdout.strip() == "1")
    assert state(sandbox) == SandboxState.RUNNING


def test_a_paused_sandbox_can_be_killed(sandbox):
    sandbox.pause()
    assert Sandbox.kill(sandbox.sandbox_id) is True
    assert Sandbox.kill(sandbox.sandbox_id) is False


def test_one_whose_time_is_over_is_paused_where_that_was_asked_for():
    sandbox = Sandbox.create(
        timeout=2, lifecycle={"on_timeout": "pause", "auto_resume": True}
    )
    try:
        sandbox.files.write(FILE, "kept")
        deadline = time.monotonic() + 30
        while state(sandbox) != SandboxState.PAUSED:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert sandbox.files.read(FILE) == "kept", "traffic wakes it"
        assert state(sandbox) == SandboxState.RUNNING
    finally:
        sandbox.kill()


def test_a_snapshot_starts_sandboxes_with_its_files(sandbox):
    sandbox.files.write(FILE, "then")
    snapshot = sandbox.create_snapshot()
    copy = Sandbox.create(snapshot.snapshot_id, timeout=60)
    try:
        assert copy.files.read(FILE) == "then"
        listed = Sandbox.list_snapshots(sandbox_id=sandbox.sandbox_id).next_items()
        assert [row.snapshot_id for row in listed] == [snapshot.snapshot_id]
    finally:
        copy.kill()
    assert Sandbox.delete_snapshot(snapshot.snapshot_id) is True
    assert Sandbox.delete_snapshot(snapshot.snapshot_id) is False


def test_one_made_of_a_snapshot_has_the_variables_of_its_source_or_its_own(create):
    source = create(envs={"A": "1", "B": "2"})
    snapshot = source.create_snapshot()
    show = "echo $A$B"
    assert create(template=snapshot.snapshot_id).commands.run(show).stdout == "12\n"
    own = create(template=snapshot.snapshot_id, envs={"A": "3"})
    assert own.commands.run(show).stdout == "3\n"
    assert Sandbox.delete_snapshot(snapshot.snapshot_id) is True


@NEWEST
def test_a_pause_that_asks_for_a_healthy_agent_and_a_start_without_the_memory(sandbox):
    sandbox.files.write(FILE, "kept")
    boot = sandbox.commands.run(BOOT_ID).stdout
    assert sandbox.pause(strict=True) is True
    assert sandbox.get_info().envd_unresponsive_at_pause is None
    sandbox.connect(on_resume="reboot")
    assert sandbox.files.read(FILE) == "kept"
    assert sandbox.commands.run(BOOT_ID).stdout != boot
    assert sandbox.pause(mode="filesystem", strict=True) is True
    sandbox.connect()
    assert sandbox.files.read(FILE) == "kept"


def test_forks_are_sandboxes_of_their_own(sandbox):
    sandbox.files.write(FILE, "shared")
    forks = sandbox.fork(count=2, timeout=60)
    try:
        assert len(forks) == 2
        for fork in forks:
            assert not isinstance(fork, Exception), fork
            assert fork.files.read(FILE) == "shared"
            fork.files.write(FILE, fork.sandbox_id)
        assert sandbox.files.read(FILE) == "shared"
    finally:
        for fork in forks:
            if not isinstance(fork, Exception):
                fork.kill()


def test_of_a_pause_without_memory_the_files_are_kept_and_it_starts_anew(create):
    sandbox = create(envs={"KEPT": "yes"})
    sandbox.files.write(FILE, "kept")
    sandbox.commands.run("sleep 1000", background=True, timeout=0)
    boot = sandbox.commands.run(BOOT_ID).stdout
    assert sandbox.pause(keep_memory=False) is True
    sandbox.connect()
    assert sandbox.files.read(FILE) == "kept"
    assert sandbox.commands.run("echo $KEPT; pgrep -c sleep || true").stdout == "yes\n0\n"
    assert sandbox.commands.run(BOOT_ID).stdout != boot


def test_traffic_wakes_no_sandbox_that_is_not_to_be_woken(create):
    sandbox = create(timeout=100, lifecycle={"on_timeout": "pause"})
    sandbox.files.write(FILE, "kept")
    sandbox.set_timeout(1)
    wait_for("the pause", lambda: state(sandbox) == SandboxState.PAUSED)
    with pytest.raises((TimeoutException, NotFoundException)):
        sandbox.files.read(FILE)
    assert state(sandbox) == SandboxState.PAUSED
    sandbox.connect(timeout=100)
    assert sandbox.files.read(FILE) == "kept"
    sandbox.set_timeout(1)
    wait_for("the next pause", lambda: state(sandbox) == SandboxState.PAUSED)


def test_a_stream_is_cut_by_the_pause_and_its_command_can_be_joined_again(sandbox):
    command = sandbox.commands.run("sleep 1000", background=True, timeout=0)
    sandbox.pause()
    with pytest.raises((TimeoutException, NotFoundException)):
        command.wait()
    sandbox.connect()
    assert command.pid in [process.pid for process in sandbox.commands.list()]
    assert sandbox.commands.connect(command.pid).kill() is True


def test_what_a_paused_sandbox_cannot_do_is_refused(sandbox):
    sandbox.pause()
    for call in (sandbox.create_snapshot, lambda: sandbox.set_timeout(60)):
        with pytest.raises(NotFoundException):
            call()
    with pytest.raises(SandboxException, match="409: .* is paused"):
        sandbox.fork()
    assert state(sandbox) == SandboxState.PAUSED


def test_a_snapshot_is_found_and_started_by_its_name_and_outlives_its_source(create):
    source, name = create(envs={"MINE": "yes"}), f"snap-{uuid.uuid4().hex[:8]}"
    source.files.write(FILE, "first")
    first = source.create_snapshot(name=name)
    source.files.write(FILE, "second")
    # A name that is used again is the same snapshot, with what there is now.
    assert source.create_snapshot(name=name).snapshot_id == first.snapshot_id
    source.kill()
    try:
        listed = Sandbox.list_snapshots(name=name).next_items()
        assert [row.snapshot_id for row in listed] == [first.snapshot_id]
        assert Sandbox.list_snapshots(name=f"{name}-not").next_items() == []
        for template in (name, first.snapshot_id):
            assert create(template=template).files.read(FILE) == "second"
    finally:
        assert Sandbox.delete_snapshot(first.snapshot_id) is True
    with pytest.raises(SandboxException, match="404: "):
        create(template=name)

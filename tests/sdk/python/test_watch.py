"""Watching directories, by polling. The streaming form is in test_async.py."""

import pytest
from e2b import FilesystemEventType, NotFoundException, SandboxException
from support import wait_for


class Seen:
    """What a watch has told so far."""

    def __init__(self, watch):
        self.watch, self.events = watch, []

    def has(self, kind, name):
        self.events.extend(self.watch.get_new_events())
        return any(event.type == kind and event.name == name for event in self.events)

    def wait(self, kind, name):
        wait_for(f"{kind} of {name}", lambda: self.has(kind, name))


def test_a_watch_tells_of_every_kind_of_change(sandbox):
    sandbox.files.make_dir("/tmp/watched")
    seen = Seen(sandbox.files.watch_dir("/tmp/watched"))
    sandbox.files.write("/tmp/watched/file", "text")
    seen.wait(FilesystemEventType.CREATE, "file")
    seen.wait(FilesystemEventType.WRITE, "file")
    sandbox.commands.run("chmod 600 /tmp/watched/file")
    seen.wait(FilesystemEventType.CHMOD, "file")
    sandbox.files.rename("/tmp/watched/file", "/tmp/watched/other")
    seen.wait(FilesystemEventType.RENAME, "file")
    seen.wait(FilesystemEventType.CREATE, "other")
    sandbox.files.remove("/tmp/watched/other")
    seen.wait(FilesystemEventType.REMOVE, "other")


def test_an_event_is_told_once(sandbox):
    sandbox.files.make_dir("/tmp/watched")
    seen = Seen(sandbox.files.watch_dir("/tmp/watched"))
    sandbox.files.make_dir("/tmp/watched/one")
    seen.wait(FilesystemEventType.CREATE, "one")
    sandbox.files.make_dir("/tmp/watched/two")
    seen.wait(FilesystemEventType.CREATE, "two")
    created = [event.name for event in seen.events if event.type == FilesystemEventType.CREATE]
    assert created == ["one", "two"]


def test_a_recursive_watch_sees_new_directories_too(sandbox):
    sandbox.files.make_dir("/tmp/watched/old")
    seen = Seen(sandbox.files.watch_dir("/tmp/watched", recursive=True))
    sandbox.files.write("/tmp/watched/old/file", "")
    seen.wait(FilesystemEventType.CREATE, "old/file")
    sandbox.files.make_dir("/tmp/watched/new")
    seen.wait(FilesystemEventType.CREATE, "new")
    sandbox.files.write("/tmp/watched/new/file", "text")
    seen.wait(FilesystemEventType.WRITE, "new/file")


def test_a_plain_watch_does_not_look_into_subdirectories(sandbox):
    sandbox.files.make_dir("/tmp/watched/sub")
    seen = Seen(sandbox.files.watch_dir("/tmp/watched"))
    sandbox.files.write("/tmp/watched/sub/file", "")
    sandbox.files.write("/tmp/watched/last", "")
    seen.wait(FilesystemEventType.CREATE, "last")
    assert not any("sub/file" in event.name for event in seen.events)


def test_an_event_carries_the_entry_when_asked(sandbox):
    sandbox.files.make_dir("/tmp/watched")
    seen = Seen(sandbox.files.watch_dir("/tmp/watched", include_entry=True))
    sandbox.files.write("/tmp/watched/file", "text")
    seen.wait(FilesystemEventType.CREATE, "file")
    event = next(event for event in seen.events if event.type == FilesystemEventType.CREATE)
    assert event.entry is not None
    assert event.entry.path == "/tmp/watched/file"


def test_a_stopped_watch_tells_nothing_more(sandbox):
    watch = sandbox.files.watch_dir("/tmp")
    watch.stop()
    with pytest.raises(SandboxException):
        watch.get_new_events()


def test_what_is_not_there_cannot_be_watched(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.files.watch_dir("/tmp/missing")

"""The asynchronous client: the same wire, other code in front of it."""

import asyncio

import pytest
from e2b import AsyncSandbox, CommandExitException, FilesystemEventType, PtySize


def in_a_sandbox(body):
    """Runs a coroutine function with a sandbox of its own."""

    async def run():
        sandbox = await AsyncSandbox.create(timeout=180)
        try:
            await body(sandbox)
        finally:
            await sandbox.kill()

    asyncio.run(run())


def test_commands_stream_and_end():
    async def body(sandbox):
        lines = []
        result = await sandbox.commands.run("echo a; echo b >&2", on_stdout=lines.append)
        assert (result.stdout, result.stderr, "".join(lines)) == ("a\n", "b\n", "a\n")
        with pytest.raises(CommandExitException) as failure:
            await sandbox.commands.run("exit 9")
        assert failure.value.exit_code == 9

    in_a_sandbox(body)


def test_commands_run_at_once_and_background_ones_are_joined():
    async def body(sandbox):
        results = await asyncio.gather(*(sandbox.commands.run(f"echo {n}") for n in range(20)))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(20)]
        handle = await sandbox.commands.run("cat", background=True, stdin=True, timeout=30)
        joined = await sandbox.commands.connect(handle.pid, timeout=30)
        await sandbox.commands.send_stdin(handle.pid, "to both\n")
        await sandbox.commands.close_stdin(handle.pid)
        results = await asyncio.gather(handle.wait(), joined.wait())
        assert [result.stdout for result in results] == ["to both\n"] * 2

    in_a_sandbox(body)


def test_a_directory_is_watched_by_a_stream():
    async def body(sandbox):
        await sandbox.files.make_dir("/tmp/watched")
        events = asyncio.Queue()
        watch = await sandbox.files.watch_dir(
            "/tmp/watched", on_event=events.put, recursive=True, timeout=60
        )
        await sandbox.files.write("/tmp/watched/file", "text")
        async with asyncio.timeout(30):
            wanted = {FilesystemEventType.CREATE, FilesystemEventType.WRITE}
            while wanted:
                event = await events.get()
                assert event.name == "file"
                wanted.discard(event.type)
        await watch.stop()

    in_a_sandbox(body)


def test_a_terminal_answers_as_it_goes():
    async def body(sandbox):
        screen = bytearray()
        terminal = await sandbox.pty.create(
            PtySize(rows=24, cols=80), on_data=screen.extend, timeout=30
        )
        await sandbox.pty.send_stdin(terminal.pid, b"echo $((6 * 7)); exit\n")
        assert (await terminal.wait()).exit_code == 0
        assert b"42" in screen

    in_a_sandbox(body)


def test_files_and_the_sandbox_itself():
    async def body(sandbox):
        await sandbox.files.write("/tmp/file", "text")
        assert await sandbox.files.read("/tmp/file") == "text"
        assert await sandbox.is_running() is True
        joined = await AsyncSandbox.connect(sandbox.sandbox_id)
        assert await joined.files.exists("/tmp/file") is True
        assert await sandbox.kill() is True
        assert await sandbox.kill() is False
        assert await sandbox.is_running() is False

    in_a_sandbox(body)

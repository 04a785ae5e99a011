"""Terminals."""

import pytest
from e2b import CommandExitException, PtySize


def run(sandbox, terminal, text):
    """Types `text`, waits for the shell to end and answers its exit code and the screen."""
    screen = bytearray()
    sandbox.pty.send_stdin(terminal.pid, text)
    try:
        code = terminal.wait(on_pty=screen.extend).exit_code
    except CommandExitException as failure:
        code = failure.exit_code
    return code, screen.decode()


def test_a_terminal_shows_what_is_typed_and_printed_and_ends_with_the_shells_code(sandbox):
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=30)
    code, screen = run(sandbox, terminal, b"tty; echo $((40 + 2)) $TERM; exit 7\n")
    assert code == 7
    assert "/dev/pts/" in screen
    assert "42 xterm-256color" in screen


def test_a_terminal_has_the_size_it_was_given_and_can_be_resized(sandbox):
    terminal = sandbox.pty.create(PtySize(rows=31, cols=97), timeout=30)
    sandbox.pty.send_stdin(terminal.pid, b"stty size > /tmp/before; touch /tmp/measured\n")
    sandbox.commands.run("until [ -e /tmp/measured ]; do sleep 0.05; done", timeout=20)
    sandbox.pty.resize(terminal.pid, PtySize(rows=40, cols=120))
    code, screen = run(sandbox, terminal, b"stty size; exit\n")
    assert code == 0
    assert sandbox.files.read("/tmp/before") == "31 97\n"
    assert "40 120" in screen


def test_a_terminal_runs_as_the_user_in_the_directory_with_the_environment_asked_for(sandbox):
    terminal = sandbox.pty.create(
        PtySize(rows=24, cols=80), user="root", cwd="/usr/lib", envs={"OWN": "yes"}, timeout=30
    )
    _, screen = run(sandbox, terminal, b"echo $(whoami):$(pwd):$OWN; exit\n")
    assert "root:/usr/lib:yes" in screen


def test_control_c_interrupts_what_runs_in_a_terminal(sandbox):
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=30)
    sandbox.pty.send_stdin(terminal.pid, b"sh -c 'touch /tmp/running; exec sleep 1000'\n")
    sandbox.commands.run("until [ -e /tmp/running ]; do sleep 0.05; done", timeout=20)
    sandbox.pty.send_stdin(terminal.pid, b"\x03")
    _, screen = run(sandbox, terminal, b"echo still-$((1 + 1))-here; exit\n")
    assert "still-2-here" in screen


def test_a_terminal_can_be_left_and_joined_again(sandbox):
    first = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=0)
    first.disconnect()
    second = sandbox.pty.connect(first.pid, timeout=30)
    _, screen = run(sandbox, second, b"echo $((20 + 3)); exit\n")
    assert "23" in screen


def test_a_terminal_can_be_killed(sandbox):
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), timeout=30)
    assert terminal.kill() is True
    with pytest.raises(CommandExitException):
        terminal.wait()
    assert sandbox.pty.kill(4_000_000) is False

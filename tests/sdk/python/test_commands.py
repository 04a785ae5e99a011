"""Running commands: output, exit codes, input, signals, users, directories and environments."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    InvalidArgumentException,
    NotFoundException,
    TimeoutException,
)
from support import wait_for


def pids(sandbox):
    return {process.pid for process in sandbox.commands.list()}


def test_a_command_answers_with_its_output_and_exit_code(sandbox):
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)
    assert not result.error


def test_a_failed_command_raises_with_everything_it_said(sandbox):
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("echo out; echo err >&2; exit 42")
    assert failure.value.exit_code == 42
    assert (failure.value.stdout, failure.value.stderr) == ("out\n", "err\n")
    assert failure.value.error == "exit status 42"


def test_an_unknown_program_is_exit_code_127(sandbox):
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("no-such-program-anywhere")
    assert failure.value.exit_code == 127
    assert "no-such-program-anywhere" in failure.value.stderr


def test_output_arrives_while_the_command_runs(sandbox):
    # The command waits for a file that is made when its first line arrives: without streaming
    # the two would wait for each other.
    lines = []

    def on_stdout(text):
        lines.append(text)
        if "first" in text:
            sandbox.files.write("/tmp/go", "")

    command = "echo first; until [ -e /tmp/go ]; do sleep 0.05; done; echo second"
    result = sandbox.commands.run(command, on_stdout=on_stdout, timeout=30)
    assert result.stdout == "first\nsecond\n"
    assert "".join(lines) == result.stdout
    assert "second" not in lines[0]


def test_error_output_is_streamed_apart(sandbox):
    out, err = [], []
    sandbox.commands.run("echo a; echo b >&2", on_stdout=out.append, on_stderr=err.append)
    assert ("".join(out), "".join(err)) == ("a\n", "b\n")


def test_large_output_arrives_whole(sandbox):
    result = sandbox.commands.run("seq 1 500000")
    assert result.stdout == "".join(f"{n}\n" for n in range(1, 500001))


def test_characters_split_between_two_reads_arrive_whole(sandbox):
    # Three bytes each: chunk borders fall inside characters.
    result = sandbox.commands.run("python3 -c \"print('€' * 200000, end='')\"")
    assert result.stdout == "€" * 200000


def test_a_background_command_is_listed_until_it_is_killed(sandbox):
    handle = sandbox.commands.run("sleep 1000", background=True, timeout=0)
    listed = {process.pid: process for process in sandbox.commands.list()}
    assert listed[handle.pid].cmd == "/bin/bash"
    assert listed[handle.pid].args == ["-l", "-c", "sleep 1000"]
    assert handle.kill() is True
    with pytest.raises(CommandExitException) as failure:
        handle.wait()
    assert failure.value.exit_code == -1
    assert failure.value.error == "signal: killed"
    wait_for("the command to leave the list", lambda: handle.pid not in pids(sandbox))
    assert sandbox.commands.kill(handle.pid) is False


def test_killing_what_never_was_answers_false(sandbox):
    assert sandbox.commands.kill(4_000_000) is False


def test_a_command_outlives_its_client_and_can_be_joined_again(sandbox):
    command = "until [ -e /tmp/go ]; do sleep 0.05; done; echo late; exit 3"
    first = sandbox.commands.run(command, background=True, timeout=0)
    first.disconnect()
    second = sandbox.commands.connect(first.pid, timeout=30)
    assert second.pid == first.pid
    sandbox.files.write("/tmp/go", "")
    with pytest.raises(CommandExitException) as failure:
        second.wait()
    assert (failure.value.exit_code, failure.value.stdout) == (3, "late\n")


def test_a_command_that_has_just_ended_still_tells_how(sandbox):
    handle = sandbox.commands.run("exit 5", background=True)
    with pytest.raises(CommandExitException):
        handle.wait()
    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.connect(handle.pid).wait()
    assert failure.value.exit_code == 5


def test_joining_what_never_was_is_not_found(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(4_000_000)


def test_input_reaches_a_command_and_its_end_does_too(sandbox):
    handle = sandbox.commands.run("cat; echo end", background=True, stdin=True, timeout=30)
    sandbox.commands.send_stdin(handle.pid, "one\n")
    sandbox.commands.send_stdin(handle.pid, "zwölf\n")
    sandbox.commands.close_stdin(handle.pid)
    assert handle.wait().stdout == "one\nzwölf\nend\n"


def test_a_command_has_no_input_unless_asked(sandbox):
    assert sandbox.commands.run("cat; echo end").stdout == "end\n"


def test_input_for_what_never_was_is_not_found(sandbox):
    with pytest.raises(NotFoundException):
        sandbox.commands.send_stdin(4_000_000, "x")


def test_a_command_over_its_time_is_ended(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("exec sleep 1000", timeout=1)
    wait_for("the command to be ended", lambda: not pids(sandbox))


def test_environments_are_those_of_the_sandbox_and_the_command(create):
    sandbox = create(envs={"SHARED": "sandbox", "OWN": "sandbox"})
    result = sandbox.commands.run("echo $SHARED $OWN $HOME $USER", envs={"OWN": "command"})
    assert result.stdout == "sandbox command /home/user user\n"


@pytest.mark.parametrize(("user", "home"), [("user", "/home/user"), ("root", "/root")])
def test_a_command_runs_as_the_user_asked_for(sandbox, user, home):
    result = sandbox.commands.run("whoami; pwd; echo $HOME", user=user)
    assert result.stdout == f"{user}\n{home}\n{home}\n"


def test_the_default_user_is_not_root(sandbox):
    assert sandbox.commands.run("whoami").stdout == "user\n"


def test_an_unknown_user_is_refused(sandbox):
    with pytest.raises(AuthenticationException) as refusal:
        sandbox.commands.run("true", user="nobody-we-know")
    assert "nobody-we-know" in str(refusal.value)


def test_sudo_works_without_a_password(sandbox):
    assert sandbox.commands.run("sudo -n id -u").stdout == "0\n"


def test_a_command_runs_in_the_directory_asked_for(sandbox):
    assert sandbox.commands.run("pwd", cwd="/usr/lib").stdout == "/usr/lib\n"


def test_a_missing_directory_is_refused(sandbox):
    with pytest.raises(InvalidArgumentException) as refusal:
        sandbox.commands.run("pwd", cwd="/no/such/place")
    assert "/no/such/place" in str(refusal.value)


def test_many_commands_run_at_once(sandbox):
    with ThreadPoolExecutor(16) as pool:
        outputs = pool.map(lambda n: sandbox.commands.run(f"echo {n}").stdout, range(64))
        assert list(outputs) == [f"{n}\n" for n in range(64)]


def test_two_sandboxes_run_side_by_side_and_see_nothing_of_each_other(create):
    one, two = create(), create()
    one.files.write("/tmp/mine", "one")
    with ThreadPoolExecutor(2) as pool:
        names = list(pool.map(lambda box: box.commands.run("ls -A /tmp").stdout, (one, two)))
    assert names == ["mine\n", ""]
    handle = one.commands.run("sleep 1000", background=True, timeout=0)
    assert pids(two) == set()
    assert "sleep 1000" not in two.commands.run("cat /proc/*/cmdline | tr '\\0' ' '").stdout
    handle.kill()

"""The method matrix is the truth about this release, in both directions (docs/methods.md)."""

import asyncio
import inspect
import re

import e2b
import pytest
from e2b import AsyncSandbox, Sandbox, Secret, Template
from support import NEWEST, RELEASE, REPOSITORY
from test_refused import CALLS

PAGE = REPOSITORY / "docs/methods.md"
RELEASE_NAME = "Python " + ".".join(map(str, RELEASE))


def part(owner, name):
    """The class of `sandbox.files` and the like."""
    return inspect.signature(inspect.getattr_static(owner, name).fget).return_annotation


def classes(owner, prefix):
    """What the headings of the page stand for, in one of the two kinds of client."""
    named = {f"sandbox.{name}": [part(owner, name)] for name in ("files", "commands", "pty", "git")}
    for name in (
        *("Sandbox", "CommandHandle", "WatchHandle", "Template", "Volume", "Secret"),
        *("SandboxPaginator", "SnapshotPaginator", "SecretPaginator"),
    ):
        named[name] = [getattr(e2b, prefix + name)]
    # A builder is told the steps one after the other, and has other calls after each of them.
    started = Template().from_image("alpine")
    named["Template"] += [e2b.TemplateBase, type(started), type(started.set_start_cmd("x", "y"))]
    return named


def public(kinds):
    """The names of all calls that are for the users of the client."""
    return {
        name
        for kind in kinds
        for name in dir(kind)
        if not name.startswith("_") and inspect.isroutine(inspect.getattr_static(kind, name))
    }


def matrix():
    """What the page says of this release, by heading and call."""
    text = PAGE.read_text()
    found = {}
    for heading, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        table = [line.strip("| ").split(" | ") for line in body.splitlines() if line[:1] == "|"]
        at = table[0].index(RELEASE_NAME)
        rows = {row[0].strip("`"): row[at] for row in table[2:]}
        assert len(rows) == len(table) - 2, f"{heading}: a call with two rows"
        found[heading.strip("`")] = rows
    return found


def there(rows):
    return {name for name, cell in rows.items() if cell != "-"}


@pytest.mark.parametrize(("owner", "prefix"), [(Sandbox, ""), (AsyncSandbox, "Async")])
def test_every_call_of_this_release_has_its_row_and_every_row_a_call(owner, prefix):
    said = matrix()
    functions = {name for name in e2b.__all__ if inspect.isfunction(getattr(e2b, name))}
    assert there(said.pop("Functions")) == functions
    if prefix:
        said["WatchHandle"].pop("get_new_events")
    has = {heading: public(kinds) for heading, kinds in classes(owner, prefix).items()}
    assert {heading: there(rows) for heading, rows in said.items()} == has


def test_every_refusal_is_tried():
    said = matrix()
    refused = {
        (heading, name)
        for heading, rows in said.items()
        for name, cell in rows.items()
        if cell == "501"
    }
    # There is no volume to ask it of, and no page of secrets.
    without = {
        (heading, name)
        for heading, name in refused
        if (heading == "Volume" and name not in CALLS["Volume"]) or heading == "SecretPaginator"
    }
    kinds = {"Build": "Template"}
    tried = {(kinds.get(kind, kind), name) for kind, calls in CALLS.items() for name in calls}
    assert refused - without == tried


def test_what_asks_nobody_answers(sandbox):
    assert sandbox.get_host(8000).startswith(f"8000-{sandbox.sandbox_id}.")
    assert sandbox.get_mcp_url().endswith("/mcp")
    signature = e2b.get_signature("/etc/hostname", "read", "user", "token")
    assert signature["signature"].startswith("v1_")
    template = Template().from_image("alpine").run_cmd("true").set_start_cmd("sleep 1", "true")
    assert "FROM alpine" in Template.to_dockerfile(template)
    assert "alpine" in Template.to_json(template)
    assert Secret.fill("name")
    assert Secret.iam_token(audience="https://example.com", token_type="JWT-SVID")


def test_there_is_no_gateway_and_so_no_token_of_it(sandbox):
    with pytest.raises(e2b.NotFoundException):
        sandbox.get_mcp_token()


def test_the_older_name_of_a_pause_pauses(sandbox):
    assert sandbox.beta_pause()
    assert sandbox.get_info().state == e2b.SandboxState.PAUSED
    sandbox.connect()
    assert sandbox.is_running()


@NEWEST
def test_input_is_streamed_in_order(sandbox):
    command = sandbox.commands.run("cat", background=True, stdin=True)
    parts = [f"{number}\n" for number in range(100)]
    sandbox.commands.stream_input(command.pid, iter(parts))
    sandbox.commands.close_stdin(command.pid)
    assert command.wait().stdout == "".join(parts)

    async def asynchronous():
        other = await AsyncSandbox.connect(sandbox.sandbox_id)
        command = await other.commands.run("cat", background=True, stdin=True)
        handle = other.commands.stream_input(command.pid)
        for part in parts:
            await handle.send(part)
        await handle.close()
        await other.commands.close_stdin(command.pid)
        return (await command.wait()).stdout

    assert asyncio.run(asynchronous()) == "".join(parts)

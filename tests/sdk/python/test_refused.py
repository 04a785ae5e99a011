"""What this version does not have answers at once, with an error that says so (docs/sdk.md)."""

import time

import e2b
import pytest
from e2b import Sandbox, Secret, Template, Volume

NOBODY = "i" + "0" * 20

#: Far above what an answer takes, far below every limit of a client.
AT_ONCE = 10

BUILD = e2b.BuildInfo(alias="x", name="x", tags=[], template_id="t", build_id="b")

#: By the class of the error, without its ending.
CALLS = {
    "Build": {
        "build": lambda _: Template.build(Template().from_image("alpine"), "x"),
        "build_in_background": lambda _: Template.build_in_background(
            Template().from_image("alpine"), "x"
        ),
        "get_build_status": lambda _: Template.get_build_status(BUILD),
    },
    "Template": {
        "assign_tags": lambda _: Template.assign_tags("base:default", "x"),
        "remove_tags": lambda _: Template.remove_tags("base", "x"),
        "get_tags": lambda _: Template.get_tags("base"),
    },
    "Volume": {
        "create": lambda _: Volume.create("v"),
        "connect": lambda _: Volume.connect("v"),
        "get_info": lambda _: Volume.get_info("v"),
        "list": lambda _: Volume.list(),
        "destroy": lambda _: Volume.destroy("v"),
    },
    "Secret": {
        "create": lambda _: Secret.create("s", "v"),
        "update": lambda _: Secret.update("s", "v"),
        "get_info": lambda _: Secret.get_info("s"),
        "list": lambda _: Secret.list().next_items(),
        "exists": lambda _: Secret.exists("s"),
        "destroy": lambda _: Secret.destroy("s"),
    },
}


@pytest.mark.parametrize("kind", CALLS)
def test_every_call_is_refused_at_once_by_an_error_of_its_kind(sandbox, kind):
    for name, call in CALLS[kind].items():
        began = time.monotonic()
        with pytest.raises(Exception) as refused:
            call(sandbox)
        took = time.monotonic() - began
        assert type(refused.value).__name__ == f"{kind}Exception", name
        assert str(refused.value).startswith("501: "), name
        assert took < AT_ONCE, name
    assert sandbox.is_running()


def test_what_has_ended_is_not_found_whatever_is_asked_of_it():
    for call in (Sandbox.pause, Sandbox.create_snapshot):
        with pytest.raises(e2b.SandboxNotFoundException):
            call(NOBODY)
    assert Sandbox.delete_snapshot("no-such-snapshot") is False

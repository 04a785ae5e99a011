"""A node is drained under its clients, then forced. Needs a service of its own: there is no way
back."""

from clients import KEPT, WORKERS, Clients, Operator, counts, list_all, see_the_end
from support import wait_for


def test_a_drain_refuses_what_comes_and_force_ends_what_is_there(capsys):
    operator, clients = Operator(), Clients()
    try:
        # All that are kept run, and others come and go.
        wait_for(
            "work",
            lambda: clients.check()
            and len(clients.kept) == WORKERS * KEPT
            and len(clients.killed) > 2 * WORKERS,
            limit=60,
        )
        assert operator.ask_for("draining") == 204
        clients.closed.set()
        wait_for("a refusal of every worker", lambda: clients.check() and all(clients.refused))
        assert operator.ask_for("draining") == 204, "again is as good"
        assert operator.ask_for("ready") == 409

        # What was there goes on, for as long as it is let.
        kept = {sandbox.sandbox_id for sandbox in clients.kept}
        wait_for("the others to end", lambda: clients.check() and list_all() == kept)
        for sandbox in clients.kept:
            assert sandbox.is_running() is True
            assert sandbox.commands.run("echo still here").stdout == "still here\n"
        assert operator.drain()["remaining"] == len(kept)
        assert clients.cut == {}

        clients.forced.set()
        assert operator.ask_for("draining", force=True) == 204
        see_the_end(clients, operator)
    finally:
        clients.enough.set()
    with capsys.disabled():
        print(f"\n    drained, then forced: {counts(clients)}")

"""A node is forced at once, with creates under way. Needs a service of its own: there is no way
back."""

from clients import WORKERS, Clients, Operator, counts, see_the_end
from support import wait_for


def test_force_leaves_nobody_in_doubt(capsys):
    operator, clients = Operator(), Clients()
    try:
        wait_for("work", lambda: clients.check() and len(clients.killed) > WORKERS, limit=60)
        clients.forced.set()
        assert operator.ask_for("draining", force=True) == 204
        clients.closed.set()
        see_the_end(clients, operator)
    finally:
        clients.enough.set()
    with capsys.disabled():
        print(f"\n    forced at once: {counts(clients)}")

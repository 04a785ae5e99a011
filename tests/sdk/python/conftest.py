"""Fixtures. Every test gets sandboxes of its own and leaves none behind."""

import pytest
from e2b import Sandbox
from support import Edge

#: Seconds a forgotten sandbox lives on: above the limit of a test.
LIFETIME = 180


@pytest.fixture
def create():
    """Makes sandboxes that end with the test."""
    made = []

    def make(**options):
        sandbox = Sandbox.create(**{"timeout": LIFETIME, **options})
        made.append(sandbox)
        return sandbox

    yield make
    for sandbox in made:
        sandbox.kill()


@pytest.fixture
def sandbox(create):
    return create()


@pytest.fixture
def edge():
    return Edge()

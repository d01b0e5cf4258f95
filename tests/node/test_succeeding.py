"""Who tells a master of the one that may have its place."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from metaserver.node.registry import Membership
from metaserver.node.succeeding import make_succession
from metaserver.registry.paths import Replica


def test_whoever_has_the_name_that_is_waited_for_is_looked_at() -> None:
    broker: Any = SimpleNamespace(on_successor=None, promoted="")
    membership = Membership(broker, Replica(0), "127.0.0.1", lambda: False)
    succession = make_succession(broker, membership, None, None)
    assert membership.on_holder is not None
    membership.on_holder("10.0.0.2:8123")
    assert succession._caller == ("10.0.0.2", 8123)
    membership.on_holder("b'no address'")
    assert succession._caller == ("10.0.0.2", 8123)

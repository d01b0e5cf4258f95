from __future__ import annotations

from metaserver.errors import FencedError


def test_a_fenced_broker_says_where_to_send() -> None:
    assert str(FencedError("h:1 is registered")) == (
        "This broker is no longer the master: h:1 is registered. It takes no messages until it is restarted, "
        "send to the other"
    )

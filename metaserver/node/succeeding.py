"""What a master does where another broker is, or was, master in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaserver.broker import version_text
from metaserver.replication import Succession

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.node.registry import EmbeddedRegistry, Membership
    from metaserver.node.role import Role
    from metaserver.replication import Successor


def make_succession(
    broker: Broker, membership: Membership, embedded: EmbeddedRegistry | None, role: Role | None
) -> Succession:
    """Of a master that may have been promoted; one that is succeeded leaves its registry to the other."""

    def give_way(successor: Successor) -> None:
        broker.gate.fence(str(successor))
        membership.follow(None)
        if embedded is not None:
            # Clients that look for a registry here find the other's, and go there.
            broker.version_text = version_text(registry_elsewhere=successor.registry)
            embedded.close()

    predecessor = None
    if role is not None and (promotion := role.promotion) is not None:
        broker.promoted = promotion.time
        predecessor = (promotion.master_host, promotion.master_port) if promotion.master_host else None
    succession = Succession(broker, predecessor, give_way)
    broker.on_successor = succession.call
    # Promoted while another was promoted after it: that one may not know in whose place it is.
    membership.on_holder = succession.call
    return succession

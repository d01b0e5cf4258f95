"""What a broker calls itself, and the extensions it announces (docs/protocol.md)."""

from metaserver import __version__

VERSION_TEXT = f"1.4.6.2 metaserver/{__version__} extensions=long-poll,put-batch,epochs,replica-ack"
"""MetaQ's version first, for those who read it; then ours and what a 1.4.6 broker does not know."""


def version_text(registry_port: int | None) -> str:
    """The answer to ``version`` of a broker that hosts the registry at this port, or none."""
    return VERSION_TEXT if registry_port is None else f"{VERSION_TEXT} registry={registry_port}"

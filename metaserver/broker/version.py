"""What a broker calls itself, and the extensions it announces (docs/protocol.md)."""

from metaserver import __version__

_EXTENSIONS = "long-poll,put-batch,epochs,replica-ack,zlib,filter,successor"
VERSION_TEXT = f"1.4.6.2 metaserver/{__version__} extensions={_EXTENSIONS}"
"""MetaQ's version first, for those who read it; then ours and what a 1.4.6 broker does not know."""
GREGOR_VERSION_TEXT = f"{VERSION_TEXT},pair"
"""Of the slave of a synchronous pair, which is nobody's registry."""


def version_text(registry_port: int | None = None, registry_elsewhere: str | None = None) -> str:
    """The answer to ``version``; a broker hosts the registry at this port, or knows its ``HOST:PORT``."""
    if registry_port is not None:
        return f"{VERSION_TEXT} registry={registry_port}"
    if registry_elsewhere is not None:
        return f"{VERSION_TEXT} registry-at={registry_elsewhere}"
    return VERSION_TEXT

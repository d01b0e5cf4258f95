"""``--from`` and ``--to``: where in a partition something begins."""

from __future__ import annotations

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure
from metaserver.client import starting_point
from metaserver.client.starting_point import StartingPoint, describe_between, describe_outside
from metaserver.errors import ConfigError

__all__ = ["StartingPoint", "describe_between", "describe_outside", "parse_starting_point"]


def parse_starting_point(text: str, option: str = "--from") -> StartingPoint:
    """What the option says; raises Failure where it says nothing that can be understood."""
    try:
        return starting_point.parse_starting_point(text)
    except ConfigError as error:
        raise Failure(f"{option} {error}", ExitCode.USAGE) from None

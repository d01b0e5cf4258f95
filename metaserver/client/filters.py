"""Filters for consumers: ``session.consumer(…, message_filter=by_attribute("paid", "refunded"))``.

A filter is any function of a message; what it returns false for counts as dealt with, unseen. One that raises
loses nothing: see :class:`metaserver.client.Consumer`.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

from metaserver.errors import ConfigError

if TYPE_CHECKING:
    from metaserver.client.consumer import Filter
    from metaserver.client.received import ReceivedMessage


def by_attribute(*attributes: str | None) -> Filter:
    """Messages with one of these attributes; None stands for messages without any.

    Raises ConfigError where no attribute is given: nothing would ever come.
    """
    if not attributes:
        raise ConfigError(("by_attribute: name an attribute at least; nothing would pass",))
    wanted = frozenset(attributes)

    def accepts(message: ReceivedMessage) -> bool:
        return message.attribute in wanted

    return accepts


def by_attribute_pattern(pattern: str) -> Filter:
    """Messages whose whole attribute matches a shell pattern: ``*``, ``?``, ``[a-z]``; case matters.

    A message without an attribute never matches, also not ``*``.
    """
    matches = re.compile(translate(pattern)).match

    def accepts(message: ReceivedMessage) -> bool:
        attribute = message.attribute
        return attribute is not None and matches(attribute) is not None

    return accepts

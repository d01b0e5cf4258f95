"""Filters for consumers: ``session.consumer(…, message_filter=by_attribute("paid", "refunded"))``.

A filter is any function of a message; what it returns false for counts as dealt with, unseen. One that raises
loses nothing: see :class:`metaserver.client.Consumer`.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.errors import ConfigError, FilterError
from metaserver.filters import Filter as Condition

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client.received import ReceivedMessage

Filter: TypeAlias = "Callable[[ReceivedMessage], bool]"


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


@attrs.frozen
class ByCondition:
    """A filter that brokers understand too: see :func:`by_condition`."""

    condition: Condition

    def __call__(self, message: ReceivedMessage) -> bool:
        """Whether the message meets it."""
        return self.condition.accepts(message.attribute, message.payload)


def by_condition(text: str) -> ByCondition:
    """Messages that meet a condition like ``attribute = 'paid' AND json.price > 100``.

    A broker that knows conditions does not send the others; of any other broker they are left out here.
    Raises ConfigError where the text is none; :mod:`metaserver.filters` has the grammar.
    """
    try:
        return ByCondition(Condition.parse(text))
    except FilterError as error:
        raise ConfigError((f"by_condition: {error}",)) from error


def by_attribute_pattern(pattern: str) -> Filter:
    """Messages whose whole attribute matches a shell pattern: ``*``, ``?``, ``[a-z]``; case matters.

    A message without an attribute never matches, also not ``*``.
    """
    matches = re.compile(translate(pattern)).match

    def accepts(message: ReceivedMessage) -> bool:
        attribute = message.attribute
        return attribute is not None and matches(attribute) is not None

    return accepts

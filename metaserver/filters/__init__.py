"""Which messages a group wants, in a subset of SQL-92: ``attribute = 'paid' AND json.price > 100``.

A filter is a text and what was compiled from it. It is made of data, never of code that somebody brings: the
text is bounded in length, depth and number of comparisons, and the work for one message by the length of its
payload. The broker and the client hold the same, so that either may ask it.
"""

from metaserver.filters.filter import BUILT_IN, TEXT_CHARACTERS_MAX, Filter, UnknownFilter

__all__ = ["BUILT_IN", "TEXT_CHARACTERS_MAX", "Filter", "UnknownFilter"]

"""Watches: each fires once, to the connection that set it, and goes with that connection.

There are two tables, as in ZooKeeper: data watches (set by ``getData`` and ``exists``) and child watches
(set by ``getChildren``). A connection that watches one node in both hears of its deletion once.
"""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

import attrs

from metaserver.registry.embedded.codes import Code, Event, RequestRefusedError, WatcherType

WatcherT = TypeVar("WatcherT")

_Table: TypeAlias = dict[str, dict[WatcherT, None]]


@attrs.define(eq=False)
class Watches(Generic[WatcherT]):
    """Who waits for what."""

    _data: _Table[WatcherT] = attrs.Factory(dict)
    _children: _Table[WatcherT] = attrs.Factory(dict)
    _paths: dict[WatcherT, dict[tuple[str, bool], None]] = attrs.Factory(dict)
    """What a watcher has set: path, and whether it is a child watch."""
    count: int = 0

    def count_of(self, watcher: WatcherT) -> int:
        """How many a watcher has set."""
        return len(self._paths.get(watcher, ()))

    def watch_data(self, path: str, watcher: WatcherT) -> None:
        """Report the next change of the node or its data; again is the same as once."""
        self._add(self._data, path, watcher, is_child=False)

    def watch_children(self, path: str, watcher: WatcherT) -> None:
        """Report the next change of the node's children, or its end."""
        self._add(self._children, path, watcher, is_child=True)

    def created(self, path: str, parent: str) -> list[tuple[WatcherT, Event, str]]:
        """Who is to hear of a new node, and what, in this order."""
        return [
            *self._fire(self._data, path, Event.NODE_CREATED),
            *self._fire(self._children, parent, Event.NODE_CHILDREN_CHANGED),
        ]

    def deleted(self, path: str, parent: str) -> list[tuple[WatcherT, Event, str]]:
        """The same for a node that has gone."""
        of_data = self._fire(self._data, path, Event.NODE_DELETED)
        told = {watcher for watcher, _, _ in of_data}
        of_children = self._fire(self._children, path, Event.NODE_DELETED)
        return [
            *of_data,
            *(event for event in of_children if event[0] not in told),
            *self._fire(self._children, parent, Event.NODE_CHILDREN_CHANGED),
        ]

    def changed(self, path: str) -> list[tuple[WatcherT, Event, str]]:
        """The same for a node with new data."""
        return self._fire(self._data, path, Event.NODE_DATA_CHANGED)

    def forget(self, watcher: WatcherT) -> None:
        """Remove all of a watcher that has gone."""
        for path, is_child in self._paths.pop(watcher, {}):
            self._discard(self._children if is_child else self._data, path, watcher)

    def take_back(self, path: str, watcher_type: int, watcher: WatcherT, *, is_removal: bool) -> None:
        """Remove a watcher's watches of one path, or only look for them.

        Raises RequestRefusedError where there are none.
        """
        own = self._paths.get(watcher, {})
        wanted = []
        if watcher_type in (WatcherType.CHILDREN, WatcherType.ANY):
            wanted.append((path, True))
        if watcher_type in (WatcherType.DATA, WatcherType.ANY):
            wanted.append((path, False))
        found = [key for key in wanted if key in own]
        if not found:
            raise RequestRefusedError(Code.NO_WATCHER)
        if is_removal:
            for key in found:
                del own[key]
                self._discard(self._children if key[1] else self._data, path, watcher)

    def _add(self, table: _Table[WatcherT], path: str, watcher: WatcherT, *, is_child: bool) -> None:
        watchers = table.setdefault(path, {})
        if watcher not in watchers:
            watchers[watcher] = None
            self._paths.setdefault(watcher, {})[path, is_child] = None
            self.count += 1

    def _discard(self, table: _Table[WatcherT], path: str, watcher: WatcherT) -> None:
        watchers = table[path]
        del watchers[watcher]
        self.count -= 1
        if not watchers:
            del table[path]

    def _fire(self, table: _Table[WatcherT], path: str, event: Event) -> list[tuple[WatcherT, Event, str]]:
        watchers = table.pop(path, None)
        if not watchers:
            return []
        is_child = table is self._children
        for watcher in watchers:
            own = self._paths[watcher]
            del own[path, is_child]
            if not own:
                del self._paths[watcher]
        self.count -= len(watchers)
        return [(watcher, event, path) for watcher in watchers]

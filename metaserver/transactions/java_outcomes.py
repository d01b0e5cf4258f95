"""What operators of a Java broker have decided: ``heuristic.log``, a serialised map.

Sources: reference transactions section 7; Java Object Serialization Specification, chapter 6. Of that grammar
only what this one map needs is read: objects, byte arrays, strings and references.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from struct import Struct

import attrs

from metaserver.protocol import XaKey

_MAGIC = b"\xac\xed\x00\x05"
_FIRST_HANDLE = 0x7E0000
_HAS_ANNOTATION, _HAS_FIELDS = 1, 2
_PRIMITIVES = {code: Struct(f">{form}") for code, form in zip("BCDFIJSZ", "bHdfiqh?", strict=True)}
_MAP = "java.util.HashMap"
_COMMITTED, _ROLLED_BACK = 4, 5
"""States of a transaction. A third one means that an operator forgot it: it comes back as prepared."""
_DEPTH_MAX = 32


def read_outcomes(data: bytes) -> dict[XaKey, bool]:
    """The decisions that are still remembered: whether each was to commit.

    A blank file has none. Raises ValueError for anything but such a map.
    """
    if not data:
        return {}
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin as a serialised object does")
    try:
        entries = _Stream(data, len(_MAGIC)).value()
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"it is cut short or damaged: {error}") from error
    if not isinstance(entries, _Object) or _MAP not in entries.annotations:
        raise ValueError("it is no map")
    # The first of the annotation is the map's size; keys and values follow in turn.
    pairs = entries.annotations[_MAP][1:]
    if len(pairs) % 2:
        raise ValueError("a key of the map is without its value")
    found = {_key(pairs[at]): _state(pairs[at + 1]) for at in range(0, len(pairs), 2)}
    return {key: state == _COMMITTED for key, state in found.items() if state in (_COMMITTED, _ROLLED_BACK)}


def _key(value: object) -> XaKey:
    match value.fields if isinstance(value, _Object) else {}:
        case {
            "formatId": int(format_id),
            "globalTransactionId": bytes(global_id),
            "branchQualifier": bytes(branch),
            "uniqueQualifier": str(qualifier),
        }:
            return XaKey(format_id, global_id.hex(), branch.hex(), qualifier)
        case _:
            raise ValueError("a key of the map is no XA transaction")


def _state(value: object) -> int:
    match value.fields if isinstance(value, _Object) else {}:
        case {"state": int(state)}:
            return state
        case _:
            raise ValueError("a value of the map is no transaction with a state")


class _Tag(IntEnum):
    NULL = 0x70
    REFERENCE = 0x71
    CLASS = 0x72
    OBJECT = 0x73
    STRING = 0x74
    ARRAY = 0x75
    BLOCK = 0x77
    END = 0x78


@attrs.define(eq=False)
class _Class:
    name: str
    flags: int = 0
    fields: list[tuple[str, str]] = attrs.Factory(list)
    """Type code and name."""
    parent: _Class | None = None


@attrs.define(eq=False)
class _Object:
    fields: dict[str, object] = attrs.Factory(dict)
    annotations: dict[str, list[object]] = attrs.Factory(dict)
    """What a class has written itself, by its name."""


@attrs.define(eq=False)
class _Stream:
    """Reads one value after the other."""

    data: bytes
    position: int
    _handles: list[object] = attrs.Factory(list)
    _depth: int = 0

    def value(self) -> object:
        """The next value; raises ValueError, IndexError, struct.error, UnicodeDecodeError."""
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise ValueError("its values lie too deep in each other")
        try:
            return self._read(self._unpack("B") & 0xFF)
        finally:
            self._depth -= 1

    def _read(self, tag: int) -> object:
        match tag:
            case _Tag.NULL:
                return None
            case _Tag.REFERENCE:
                return self._handles[self._unpack("I") - _FIRST_HANDLE]
            case _Tag.CLASS:
                return self._class()
            case _Tag.OBJECT:
                return self._object()
            case _Tag.STRING:
                return self._remember(self._text())
            case _Tag.ARRAY:
                return self._array()
            case _Tag.BLOCK:
                return self._take(self._unpack("B") & 0xFF)
            case _:
                raise ValueError(f"a value of the unknown kind {tag:#x}")

    def _class(self) -> _Class:
        found = _Class(self._text())
        self._take(8)  # Its version: the fields say what is there.
        self._remember(found)
        found.flags = self._unpack("B")
        for _ in range(self._unpack("C")):
            code, name = self._take(1).decode(), self._text()
            if code in "[L":
                self.value()
            elif code not in _PRIMITIVES:
                raise ValueError(f"a field of the unknown type {code!r}")
            found.fields.append((code, name))
        self._annotation()
        parent = self.value()
        if parent is not None and not isinstance(parent, _Class):
            raise ValueError("a class whose parent is none")
        found.parent = parent
        return found

    def _object(self) -> _Object:
        described = self.value()
        found = _Object()
        self._remember(found)
        line: list[_Class] = []
        while isinstance(described, _Class) and described not in line:
            line.append(described)
            described = described.parent
        for one in reversed(line):
            if one.flags & _HAS_FIELDS:
                for code, name in one.fields:
                    found.fields[name] = self.value() if code in "[L" else self._unpack(code)
            if one.flags & _HAS_ANNOTATION:
                found.annotations[one.name] = self._annotation()
        return found

    def _array(self) -> bytes:
        described = self.value()
        if not isinstance(described, _Class) or described.name != "[B":
            raise ValueError("an array of other things than bytes")
        place = len(self._handles)
        self._handles.append(None)
        found = self._take(self._unpack("I"))
        self._handles[place] = found
        return found

    def _annotation(self) -> list[object]:
        found: list[object] = []
        while self.data[self.position] != _Tag.END:
            found.append(self.value())
        self.position += 1
        return found

    def _remember(self, value: object) -> object:
        self._handles.append(value)
        return value

    def _text(self) -> str:
        return self._take(self._unpack("C")).decode()

    def _unpack(self, code: str) -> int:
        form = _PRIMITIVES[code]
        (number,) = form.unpack(self._take(form.size))
        return number  # type: ignore[no-any-return] # numbers of every kind pass for integers here

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= len(self.data) - self.position:
            raise ValueError(f"{size} bytes are announced at {self.position}, and fewer are there")
        self.position += size
        return self.data[self.position - size : self.position]

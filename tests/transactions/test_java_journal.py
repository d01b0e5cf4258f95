"""The redo files of a Java broker: what is prepared in them is found, whatever is torn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metaserver.transactions.java_journal import prepared_keys


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        assert len(value) < 128
        return bytes([number << 3 | 2, len(value)]) + value
    assert value < 128
    return bytes([number << 3, value])


def message(*fields: bytes) -> bytes:
    joined = b"".join(fields)
    return len(joined).to_bytes(4, "big") + joined


def operation(kind: int, key: bytes, attachment: bytes = b"") -> bytes:
    content = field(1, kind) + field(2, 1) + field(3, key)
    if attachment:
        content += field(4, len(attachment))
    return message(field(1, 2), field(2, content), field(3, 1)) + attachment


APPEND = message(field(1, 1), field(2, field(1, 5) + field(2, b"put t 0 1 0 XID:1:01::q 7\r\nx")))
ONE, TWO = b"XID:1:01::q", b"XID:1:02::q"


def test_prepared_and_not_decided() -> None:
    assert prepared_keys([]) == []
    assert prepared_keys([APPEND + operation(1, ONE)]) == [ONE.decode()]
    assert prepared_keys([operation(1, ONE) + operation(1, TWO) + operation(2, ONE, b"a" * 40)]) == [
        TWO.decode()
    ]
    assert prepared_keys([operation(1, ONE), operation(3, ONE) + operation(4, b"TX:s:1", b"b" * 9)]) == []
    assert prepared_keys([operation(2, ONE, b"a" * 40) + operation(1, TWO)]) == [TWO.decode()]


def test_what_is_torn_ends_its_file_only() -> None:
    torn = operation(1, TWO)[:-1]
    assert prepared_keys([operation(1, ONE) + message(field(1, 2)) + operation(1, TWO)]) == [ONE.decode()]
    assert prepared_keys([operation(1, ONE) + torn, operation(1, b"XID:1:03::q")]) == [
        ONE.decode(),
        "XID:1:03::q",
    ]


@given(st.binary(max_size=80))
def test_any_bytes_end(data: bytes) -> None:
    assert prepared_keys([data, operation(1, ONE)])[-1] == ONE.decode()

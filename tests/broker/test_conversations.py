"""What a broker says to what it is told: golden conversations, and every malformed frame, over a socket."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import record

if TYPE_CHECKING:
    from tests.support import BrokerProcess, Wire

TESTDATA = Path(__file__).resolve().parents[1] / "testdata" / "wire"
MALFORMED = tomllib.loads((TESTDATA / "requests.toml").read_text(encoding="utf-8"))["malformed"]


def conversations() -> list[Any]:
    found: list[tuple[str, list[str]]] = []
    for line in (TESTDATA / "conversations.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            found.append((line[3:], []))
        elif line[:2] in ("> ", "< "):
            found[-1][1].append(line)
    return [pytest.param(lines, id=name) for name, lines in found]


def fill_in(text: str, broker: BrokerProcess, topic: str) -> str:
    text = re.sub(
        r"\{failed (-?[0-9]+)\}",
        r"Put message to [broker 'meta://127.0.0.1:{port}'] [partition '{topic}-\1'] failed.",
        text,
    )
    return text.replace("{topic}", topic).replace("{port}", str(broker.port))


def request_bytes(text: str) -> bytes:
    data = text.encode("latin-1").decode("unicode_escape").encode("latin-1")
    data = re.sub(rb"\{([0-9]+) bytes\}", lambda found: (b"version 6\r\n" * 400)[: int(found[1])], data)
    return re.sub(rb"\{record (\w*)\}", lambda found: record(found[1]), data)


@pytest.mark.parametrize("lines", conversations())
def test_conversation(broker: BrokerProcess, topic: str, lines: list[str]) -> None:
    last_id = 0
    with broker.connect() as wire:
        for line in lines:
            text = fill_in(line[2:], broker, topic)
            if line.startswith("> "):
                wire.send(request_bytes(text))
            elif text == "closed":
                wire.expect_end()
            else:
                last_id = check_reply(wire, text, last_id)
        wire.expect_nothing()


def check_reply(wire: Wire, expected: str, last_id: int) -> int:
    reply = wire.reply()
    status, opaque, *words = expected.split(" ", 2)
    text = words[0].encode().decode("unicode_escape") if words else ""
    actual = reply.text
    if "{id}" in text:
        message_id = actual.partition(" ")[0]
        actual = actual.replace(message_id, "{id}", 1)
        assert int(message_id) > last_id
        last_id = int(message_id)
    assert (str(reply.status), str(reply.opaque), actual) == (status, opaque, text)
    return last_id


@pytest.mark.parametrize("case", MALFORMED, ids=[case["name"] for case in MALFORMED])
def test_malformed_frame(broker: BrokerProcess, case: dict[str, Any]) -> None:
    with broker.connect() as wire:
        wire.send(b"version 1\r\n" + case["bytes"].encode("latin-1") + b"version 2\r\n")
        assert wire.reply().opaque == 1
        reply = wire.reply()
        assert reply.status == 400
        assert reply.text.startswith("Bad request,")
        assert case["says"] in reply.text
        assert reply.opaque == case.get("opaque", reply.opaque)
        wire.expect_end()

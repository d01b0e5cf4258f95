# ruff: noqa: ASYNC240  the files lie in a temporary folder of this test alone
from __future__ import annotations

import json
import os
import socket
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from metaserver.control.client import call
from metaserver.control.server import ControlLimits, serve_control
from metaserver.errors import ControlError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping


async def echo(arguments: dict[str, Any]) -> dict[str, Any]:
    await trio.lowlevel.checkpoint()
    return {"arguments": arguments}


async def refuse(arguments: dict[str, Any]) -> dict[str, Any]:
    raise RefusedError(403, "not on a slave")


async def break_down(arguments: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("a secret detail")


async def answer_nonsense(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"set": {1, 2}}


HANDLERS = {"echo": echo, "refuse": refuse, "break": break_down, "nonsense": answer_nonsense}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".control.sock"


async def start(
    nursery: trio.Nursery,
    path: Path,
    handlers: Mapping[str, Any] | None = None,
    limits: ControlLimits | None = None,
) -> None:
    await nursery.start(partial(serve_control, path, handlers or HANDLERS, limits=limits))


class Client:
    """Speaks lines of bytes, good or bad."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.received = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def reply(self) -> dict[str, Any] | None:
        while b"\n" not in self.received:
            data = await self.stream.receive_some()
            if not data:
                return None
            self.received += data
        line, _, self.received = self.received.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    async def ask(self, data: bytes) -> dict[str, Any] | None:
        await self.send(data)
        return await self.reply()


async def connect(path: Path) -> Client:
    return Client(await trio.open_unix_socket(str(path)))


async def ask(path: Path, command: str, **arguments: object) -> dict[str, object]:
    return await trio.to_thread.run_sync(partial(call, path, command, 5, **arguments))


async def test_a_command_reaches_its_handler(path: Path, nursery: trio.Nursery) -> None:
    await start(nursery, path)
    assert await ask(path, "echo", item="topics") == {"arguments": {"item": "topics"}}


async def test_many_commands_on_one_connection_in_any_cut(path: Path, nursery: trio.Nursery) -> None:
    await start(nursery, path)
    client = await connect(path)
    async with client.stream:
        await client.send(b'{"command": "echo", "n": 1}\n{"command": "echo", "n": 2}\n{"comm')
        assert await client.reply() == {"ok": True, "result": {"arguments": {"n": 1}}}
        assert await client.reply() == {"ok": True, "result": {"arguments": {"n": 2}}}
        await trio.testing.wait_all_tasks_blocked()  # the server has searched what it has
        await client.send(b'and": "echo", "n": 3}\n{}\n')
        assert await client.reply() == {"ok": True, "result": {"arguments": {"n": 3}}}
        assert await client.reply() == {"ok": False, "error": 'a request is a JSON object with a "command"'}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"stats topics", "one JSON object on one line"),
        (b"", "one JSON object on one line"),
        (b"\xff\xfe", "one JSON object on one line"),
        (b"[" * 60_000, "one JSON object on one line"),
        (b"9" * 5000, "one JSON object on one line"),
        (b'["command"]', 'with a "command"'),
        (b'{"comand": "echo"}', 'with a "command"'),
        (b'{"command": ["echo"]}', 'with a "command"'),
        (b'{"command": "ecko"}', "unknown command 'ecko'; the commands are break, echo, nonsense, refuse"),
        (b'{"command": "refuse"}', "not on a slave"),
    ],
)
async def test_a_bad_line_is_answered_and_the_connection_goes_on(
    path: Path, nursery: trio.Nursery, line: bytes, error: str
) -> None:
    await start(nursery, path)
    client = await connect(path)
    async with client.stream:
        reply = await client.ask(line + b"\n")
        assert reply is not None
        assert reply["ok"] is False
        assert error in reply["error"]
        assert await client.ask(b'{"command": "echo"}\n') == {"ok": True, "result": {"arguments": {}}}


@pytest.mark.parametrize("command", ["break", "nonsense"])
async def test_a_failing_handler_is_logged_and_tells_no_details(
    path: Path, nursery: trio.Nursery, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    await start(nursery, path)
    with pytest.raises(ControlError, match=f"{command} failed inside the broker; its log says more$"):
        await ask(path, command)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert await ask(path, "echo") == {"arguments": {}}


async def test_a_request_at_the_limit_and_one_past_it(path: Path, nursery: trio.Nursery) -> None:
    await start(nursery, path, limits=ControlLimits(request_bytes=100))
    request = b'{"command": "echo", "x": "%s"}'
    at_limit = request % (b"x" * (100 - len(request) + 2))
    assert len(at_limit) == 100
    client = await connect(path)
    async with client.stream:
        reply = await client.ask(at_limit + b"\n")
        assert reply is not None
        assert reply["ok"] is True
        assert await client.ask(b" " + at_limit + b"\n") == {
            "ok": False,
            "error": "a request has at most 100 bytes",
        }
        assert await client.reply() is None


async def test_an_endless_line_is_cut_off(path: Path, nursery: trio.Nursery) -> None:
    await start(nursery, path, limits=ControlLimits(request_bytes=100))
    client = await connect(path)
    async with client.stream:
        reply = await client.ask(b"x" * 101)
        assert reply == {"ok": False, "error": "a request has at most 100 bytes"}
        assert await client.reply() is None


async def test_an_idle_connection_is_closed(path: Path, nursery: trio.Nursery) -> None:
    await start(nursery, path, limits=ControlLimits(idle_seconds=0.01))
    client = await connect(path)
    async with client.stream:
        await client.send(b'{"command"')
        assert await client.reply() is None
    assert await ask(path, "echo") == {"arguments": {}}


async def test_one_connection_too_many(path: Path, nursery: trio.Nursery) -> None:
    await start(nursery, path, limits=ControlLimits(connections=1))
    client = await connect(path)
    async with client.stream:
        assert await client.ask(b'{"command": "echo"}\n') is not None
        with pytest.raises(ControlError, match="too many control connections"):
            await ask(path, "echo")
        assert await client.ask(b'{"command": "echo"}\n') is not None


async def test_a_client_that_takes_no_reply_is_cut_off(path: Path, nursery: trio.Nursery) -> None:
    async def flood(arguments: dict[str, Any]) -> dict[str, Any]:
        return {"text": "x" * 8_000_000}

    handlers = {"flood": flood, "echo": echo}
    await start(nursery, path, handlers, limits=ControlLimits(send_seconds=0.05))
    client = await connect(path)
    async with client.stream:
        await client.send(b'{"command": "flood"}\n')
        assert await ask(path, "echo") == {"arguments": {}}
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b" " * 10_000_000)  # blocks while the server sends; ends when it closes
    assert await ask(path, "echo") == {"arguments": {}}


async def test_a_client_that_leaves_disturbs_nobody(path: Path, nursery: trio.Nursery) -> None:
    left = trio.Event()

    async def wait(arguments: dict[str, Any]) -> dict[str, Any]:
        await left.wait()
        return {}

    await start(nursery, path, {"wait": wait, "echo": echo})
    client = await connect(path)
    await client.send(b'{"command": "wait"}\n')
    await client.stream.aclose()
    left.set()
    assert await ask(path, "echo") == {"arguments": {}}


async def test_the_reply_of_stop_is_sent_while_the_server_stops(path: Path) -> None:
    async with trio.open_nursery() as nursery:

        async def stop(arguments: dict[str, Any]) -> dict[str, Any]:
            nursery.cancel_scope.cancel()
            return {"stopping": True}

        await start(nursery, path, {"stop": stop})
        client = await connect(path)
        await client.send(b'{"command": "stop"}\n')
    async with client.stream:
        assert await client.reply() == {"ok": True, "result": {"stopping": True}}
    assert list(path.parent.iterdir()) == []


async def test_only_the_owner_may_connect(path: Path, nursery: trio.Nursery) -> None:
    # The mode is there when the file first appears, not a moment later.
    modes = []
    bind = socket.socket.bind

    def observed_bind(self: socket.socket, address: str) -> None:
        bind(self, address)
        modes.append(stat.S_IMODE(Path(address).stat().st_mode))

    previous = os.umask(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "bind", observed_bind)
        await start(nursery, path)
    os.umask(previous)
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_path_longer_than_an_address(tmp_path: Path, nursery: trio.Nursery) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    await start(nursery, directory / ".control.sock")
    assert await ask(directory / ".control.sock", "echo") == {"arguments": {}}


async def test_the_file_of_a_dead_broker_is_replaced(path: Path, nursery: trio.Nursery) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    await start(nursery, path)
    assert await ask(path, "echo") == {"arguments": {}}


async def test_what_a_broker_that_died_in_between_left_is_replaced(path: Path, nursery: trio.Nursery) -> None:
    path.with_name(".control.sock.new").write_bytes(b"")
    await start(nursery, path)
    assert [entry.name for entry in path.parent.iterdir()] == [".control.sock"]


async def test_the_file_of_a_living_broker_is_left_alone(path: Path, nursery: trio.Nursery) -> None:
    await start(nursery, path)
    with pytest.raises(ControlError, match="another broker is running here"):
        await serve_control(path, {})
    assert await ask(path, "echo") == {"arguments": {}}


async def test_a_living_broker_that_does_not_accept_is_still_alive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ControlError, match="another broker is running here"):
            await serve_control(path, {})
        assert path.is_socket()


async def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("notes", encoding="utf-8")
    with pytest.raises(ControlError, match="is not a socket; move it away"):
        await serve_control(path, {})
    assert path.read_text(encoding="utf-8") == "notes"


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="cannot be made: No such file"):
        await serve_control(tmp_path / "logs" / ".control.sock", {})


async def test_the_file_of_a_successor_is_not_removed(path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await start(nursery, path)
        path.unlink()
        path.write_text("successor", encoding="utf-8")
        nursery.cancel_scope.cancel()
    assert path.read_text(encoding="utf-8") == "successor"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    lines=st.lists(
        st.binary(max_size=40)
        | json_values.map(lambda value: json.dumps(value).encode())
        | st.fixed_dictionaries(
            {"command": st.sampled_from([*HANDLERS, "x"])}, optional={"item": json_values}
        ).map(lambda value: json.dumps(value).encode()),
        max_size=5,
    )
)
async def test_every_line_gets_one_reply(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("control") / ".control.sock"
    async with trio.open_nursery() as nursery:
        await start(nursery, path)
        client = await connect(path)
        async with client.stream:
            for line in lines:
                reply = await client.ask(line.replace(b"\n", b"") + b"\n")
                assert reply is not None
                assert set(reply) == ({"ok", "result"} if reply["ok"] else {"ok", "error"})
        nursery.cancel_scope.cancel()

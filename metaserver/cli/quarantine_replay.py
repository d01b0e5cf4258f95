"""``quarantine replay``: what was given up, sent as new messages. Without ``--execute`` it only tells."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import attrs
import click
import trio

from metaserver.cli.cluster import chosen_cluster, known_partitions, opened, root_option, servers_option
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import time_text
from metaserver.cli.options import json_option, node_arguments
from metaserver.cli.output import Failure, complain, count_of, say
from metaserver.cli.quarantine_folder import find_folder
from metaserver.cli.segment_file import Placed
from metaserver.cli.target import parse_address, server_option
from metaserver.client import ProducerOptions, connect
from metaserver.client.connection import REQUEST_SECONDS, expect_text
from metaserver.errors import ClientError, ReplyError, RequestTimeoutError, SendError, SendUnknownError
from metaserver.names import REGISTRY_TOPIC
from metaserver.protocol import encode_put
from metaserver.storage import RealFileSystem
from metaserver.storage.documents import save_document
from metaserver.storage.filenames import REPLAYED_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metaserver.cli.cluster import Choice
    from metaserver.cli.quarantine_folder import Folder
    from metaserver.cli.target import Address
    from metaserver.client import Partition, Session
    from metaserver.message import Record

_AT_A_TIME = 500
"""Messages on their way together; what was acknowledged is noted behind each such piece."""


@attrs.define
class Message:
    """One message of the folder, and what became of it."""

    offset: int
    record: Record = attrs.field(repr=False)
    new_id: int | None = None
    new_offset: int | None = None
    problem: str = ""

    @property
    def is_acknowledged(self) -> bool:
        """Whether a broker has it now."""
        return self.new_id is not None

    def as_json(self) -> dict[str, Any]:
        """As it is noted in the folder."""
        return {
            "offset": self.offset,
            "id": self.record.message_id,
            "new_id": self.new_id,
            "new_offset": self.new_offset,
            "problem": self.problem,
        }


@click.command()
@click.argument("folder_name", metavar="FOLDER")
@node_arguments
@server_option
@servers_option
@root_option
@click.option("--broker", "broker_id", type=int, metavar="ID", help="With --servers: of several, this one.")
@click.option(
    "--execute", "executes", is_flag=True, help="Do it; without it, it only tells what it would do."
)
@click.option("--again", "is_again", is_flag=True, help="Also what was sent again already.")
@json_option
def replay(
    *,
    folder_name: str,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    server: str | None,
    servers: str | None,
    root: str | None,
    broker_id: int | None,
    executes: bool,
    is_again: bool,
    as_json: bool,
) -> None:
    """Send the messages of FOLDER again, as new ones, to the partition they come from.

    In their order, with payload and attribute; they get new ids and offsets, which are noted in the
    folder. A second time only what was not acknowledged is sent, unless --again is given.
    """
    if (server is None) == (servers is None):
        raise Failure("name the broker with --server HOST:PORT, or a cluster with --servers", ExitCode.USAGE)
    if broker_id is not None and servers is None:
        raise Failure("--broker is for --servers: --server names the broker already", ExitCode.USAGE)
    address = None if server is None else parse_address(server)
    choice = None if servers is None else chosen_cluster(servers, root, None)
    folder = find_folder(folder_name, role, server_file, plug_ins)
    if folder.report.topic == REGISTRY_TOPIC:
        raise Failure(
            f"{folder.name} is of the registry's own log, which no client writes: nothing of it can be sent"
        )
    messages = _load(folder, is_again=is_again)
    due = [message for message in messages if not message.is_acknowledged]
    if not due:
        raise Failure(f"{folder.name} was replayed already, all of it; --again sends it once more")
    where = server or servers or ""
    plan = (
        f"{count_of(len(due), 'message')} of {folder.name} to partition {folder.report.partition} of "
        f"{folder.report.topic} at {where}"
    )
    if not executes:
        if choice is not None:
            trio.run(_find_target, choice, broker_id, folder)
        say(json.dumps(_noted(messages, where), indent=2) if as_json else f"would send {plan}")
        complain("nothing was sent; --execute does it")
        return
    note = _Note(folder, messages, where)
    if address is not None:
        trio.run(_send_to_broker, address, folder, due, note)
    elif choice is not None:
        trio.run(_send_to_cluster, choice, broker_id, folder, due, note)
    if as_json:
        say(json.dumps(_noted(messages, where), indent=2))
    sent = [message for message in due if message.is_acknowledged]
    if sent and not as_json:
        say(
            f"sent {count_of(len(sent), 'message')} of {folder.name}; new offsets {sent[0].new_offset} to "
            f"{sent[-1].new_offset}, in {REPLAYED_NAME} of the folder"
        )
    failed = [message for message in due if message.problem]
    if len(sent) != len(due):
        reason = failed[0].problem if failed else "not sent"
        raise Failure(
            f"{count_of(len(due) - len(sent), 'message')} not acknowledged: {reason}; the same command goes "
            "on with them",
            ExitCode.NOT_ACKNOWLEDGED,
        )


def _load(folder: Folder, *, is_again: bool) -> list[Message]:
    messages = []
    for base, found in folder.records():
        if isinstance(found, Placed):
            messages.append(Message(base + found.position, found.record))
        else:
            complain(f"{found.end - found.start} bytes at offset {base + found.start} are no records")
    if folder.replayed is not None and not is_again:
        noted = {message["offset"]: message for message in folder.replayed["messages"]}
        for message in messages:
            before = noted.get(message.offset)
            if before is not None:
                message.new_id, message.new_offset = before["new_id"], before["new_offset"]
    return messages


def _noted(messages: Sequence[Message], where: str) -> dict[str, Any]:
    return {
        "server": where,
        "time": time_text(time.time()),
        "complete": all(message.is_acknowledged for message in messages),
        "messages": [message.as_json() for message in messages],
    }


@attrs.frozen
class _Note:
    """Keeps in the folder what was acknowledged, so that an interrupted replay can be gone on with."""

    folder: Folder
    messages: Sequence[Message]
    where: str

    def save(self) -> None:
        text = json.dumps(_noted(self.messages, self.where), indent=1)
        try:
            save_document(RealFileSystem(), self.folder.path / REPLAYED_NAME, text.encode())
        except OSError as error:
            raise Failure(
                f"{self.folder.path}: what was sent cannot be noted, so sending stops: {error}"
            ) from error


async def _send_to_broker(address: Address, folder: Folder, due: Sequence[Message], note: _Note) -> None:
    """One connection and one partition, so the order holds whatever is on its way together."""
    report = folder.report
    note.save()
    async with connect(address.host, address.port) as connection:
        for start in range(0, len(due), _AT_A_TIME):
            piece = due[start : start + _AT_A_TIME]
            pending = []
            for message in piece:
                data, flag = message.record.data, message.record.flag

                def encode(opaque: int, data: bytes = data, flag: int = flag) -> bytes:
                    return encode_put(report.topic, report.partition, data, flag, opaque)

                pending.append(await connection.send(encode))
            for message, reply in zip(piece, pending, strict=True):
                try:
                    with trio.move_on_after(REQUEST_SECONDS) as scope:
                        words = expect_text(await reply.wait()).split(" ")
                        message.new_id, message.new_offset = int(words[0]), int(words[2])
                    if scope.cancelled_caught:
                        raise RequestTimeoutError(str(address), REQUEST_SECONDS)
                except ReplyError as error:
                    message.problem = f"refused, and not stored: {error}"
                except ClientError as error:
                    message.problem = f"stored or not: {error}"
            note.save()
            if not all(message.is_acknowledged for message in piece):
                return


async def _send_to_cluster(
    choice: Choice, broker_id: int | None, folder: Folder, due: Sequence[Message], note: _Note
) -> None:
    async with opened(choice) as session:
        target = await _target(session, folder, broker_id)
        note.save()
        async with session.producer(ProducerOptions()) as producer:
            for start in range(0, len(due), _AT_A_TIME):
                piece = due[start : start + _AT_A_TIME]
                pending = []
                for message in piece:
                    await producer.wait_for_room()
                    record = message.record
                    pending.append(
                        producer.send_nowait(
                            target.topic, record.payload, attribute=record.attribute, partition=target
                        )
                    )
                for message, sending in zip(piece, pending, strict=True):
                    try:
                        sent = await sending.wait()
                        message.new_id, message.new_offset = sent.message_id, sent.offset
                    except SendUnknownError as error:
                        message.problem = f"stored or not: {error}"
                    except SendError as error:
                        message.problem = f"not stored: {error}"
                note.save()
                if not all(message.is_acknowledged for message in piece):
                    return


async def _find_target(choice: Choice, broker_id: int | None, folder: Folder) -> None:
    """Whether there is one: raises what :func:`_target` raises."""
    async with opened(choice) as session:
        await _target(session, folder, broker_id)


async def _target(session: Session, folder: Folder, broker_id: int | None) -> Partition:
    """The partition of the cluster that the folder's is; raises Failure where that is not clear."""
    report = folder.report
    found = [
        partition
        for partition in await known_partitions(session, report.topic)
        if partition.number == report.partition and broker_id in (None, partition.broker_id)
    ]
    if not found:
        who = "no broker announces" if broker_id is None else f"broker {broker_id} does not announce"
        raise Failure(f"{who} partition {report.partition} of {report.topic}")
    if len(found) > 1:
        brokers = ", ".join(str(partition.broker_id) for partition in found)
        raise Failure(
            f"several brokers have a partition {report.partition} of {report.topic}: {brokers}; name the one "
            "it comes from with --broker ID",
            ExitCode.USAGE,
        )
    return found[0]

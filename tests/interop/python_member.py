"""A Python member of a group in a process of its own, for the killing: prints what it has, a line a message.

Usage: python_member.py SERVERS ROOT GROUP TOPIC
"""

from __future__ import annotations

import sys

import anyio

from metaserver.client import ConsumerOptions, SessionOptions, open_session


async def main() -> None:
    servers, root, group, topic = sys.argv[1:]
    session_options = SessionOptions(root=root, registry_timeout_seconds=4.0)
    options = ConsumerOptions(commit_interval_seconds=0.5)
    async with (
        open_session(servers, session_options) as session,
        session.consumer(group, topic, options) as consumer,
    ):
        async for message in consumer:
            sys.stdout.write(f"{message.partition.in_topic} {message.offset} {message.payload.decode()}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main, backend="trio")

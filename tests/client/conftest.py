"""What tests of the client share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from metaserver.client.blocking.loop_thread import loop_thread
from tests.client.postgres_server import PostgresServer, require_postgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from metaserver.client.blocking.loop_thread import Backend, LoopThread

WAIT_SECONDS_MAX = 60.0
"""Nothing here takes anywhere near as long; beyond it a test fails instead of hanging."""


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs an asynchronous function on each of the backends."""

    def run(test: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with anyio.fail_after(WAIT_SECONDS_MAX):
                await test()

        anyio.run(bounded, backend=request.param)

    return run


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Which loop a blocking client's thread runs."""
    found: Backend = request.param
    return found


@pytest.fixture
def thread(backend: Backend) -> Iterator[LoopThread]:
    """A loop of each kind in a thread of its own."""
    with loop_thread(backend) as found:
        yield found


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    require_postgres()
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()

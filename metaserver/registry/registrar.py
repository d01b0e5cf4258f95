"""Keeps a broker registered in ZooKeeper: one task that compares, acts, and compares again.

Nothing is remembered that could be wrong for long. A pass looks at what the broker wants now and at what
stands in ZooKeeper, and takes the steps from one to the other; where one of them fails the next pass finds
out. So a start, a reload, a new topic, a lost connection, an expired session, a server that forgot everything
and a node that somebody deleted are one case.

The data path never waits for any of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import ConnectionLostError, NodeFailedError, ZooKeeperError
from metaserver.logs import get_logger
from metaserver.registry.group_offsets import bring_back, relocate
from metaserver.registry.link import TreeSettings
from metaserver.registry.paths import Layout, Replica, parse_number, parse_uri, split_connect
from metaserver.registry.registration import (
    RegisteredSlave,
    RegistrationReport,
    absent_topic_nodes,
    broker_nodes,
    departure,
    plan,
    topic_nodes,
)
from metaserver.registry.zookeeper import KazooTree

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from metaserver.config import ZooKeeperConfig
    from metaserver.registry.group_offsets import Judge, Relocate
    from metaserver.registry.registration import (
        DesiredNode,
        ExistingNode,
        Registration,
        TopicRegistration,
    )
    from metaserver.registry.zookeeper import NodeTree

_log = get_logger(__name__)

_CONNECT_SECONDS = 2.0
"""A connection that takes longer is worth a warning."""
_PASS_SECONDS_MIN = 0.05
"""From one pass to the next, so that a thousand new topics are a few passes."""
_RETRY_SECONDS_MIN = 0.2
_RETRY_SECONDS_MAX = 10.0
_JITTER = 0.5
"""Pauses are shortened by up to this part: brokers that failed together do not come back together."""
_AUDIT_SECONDS_MIN = 60.0
_AUDIT_SECONDS_PER_TOPIC = 0.1
"""All nodes are read again after this time, or the longer the more there are."""
_TOPICS_PER_STEP = 30
_CLAIM_ROUNDS_MAX = 5
_REMIND_SECONDS = 60.0
"""Between two log lines about the same rival."""
_DEPARTURE_SECONDS_MAX = 5.0
_SYNC_SECONDS_MAX = 30.0


def _always() -> bool:
    return True


@attrs.define
class _RivalError(ZooKeeperError):
    """Another broker is registered under our name."""

    replica: Replica
    rival: ExistingNode

    @property
    def who(self) -> str:
        """Where it answers."""
        address = parse_uri(self.rival.data)
        if address is None:
            return repr(self.rival.data)
        host, port = address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __str__(self) -> str:
        """Whose place, by whom, and what ends it."""
        until = (
            "until its session ends" if self.rival.owner else "until its node, a persistent one, is deleted"
        )
        return f"another broker, {self.who}, is registered as {_role(self.replica)}; waiting {until}"


@attrs.define(eq=False)
class Registrar:
    """Registers one broker, in a task of its own (:meth:`run`).

    ``wanted`` is asked at each pass; call :meth:`wake` when it would answer something new.
    """

    _wanted: Callable[[], Registration]
    _random: Random
    _layout: Layout
    _sync_seconds: float
    _servers: str
    _open_tree: Callable[[Callable[[], None]], NodeTree]
    _is_noticed: Callable[[], bool] = _always
    """Whether there is somebody to notice that the broker has left."""
    on_rival: Callable[[str], None] | None = None
    """Where set, a broker that was registered and finds another in its place says so here, and never
    registers again: that other one is what clients have been told of since."""
    on_holder: Callable[[str], object] | None = None
    """Where set, told at each look who has the name that is waited for, ``HOST:PORT``."""
    relocate: Relocate | None = None
    """Of a pair's master: where in its log what a group has had ends. Asked once, before ``judge``."""
    judge: Judge | None = None
    """Of a master: which offsets of groups are beyond what it has. Asked once, when it has its name."""
    _lost_to: _RivalError | None = None
    _tree: NodeTree | None = None
    _session: int | None = None
    """The session that everything below belongs to."""
    _claim: Replica | None = None
    _registered: dict[str, TopicRegistration] = attrs.Factory(dict)
    """Topics that stand in ZooKeeper as they are here."""
    _touched: dict[str, None] = attrs.Factory(dict)
    """Topics that may have nodes of ours, also by a request of the session before that came late."""
    _audit_time: float = 0.0
    _problem: str = "registration has not begun"
    _is_beginning: bool = True
    _is_complete: bool = False
    _reminder_time: float = 0.0
    _retry_seconds: float = _RETRY_SECONDS_MIN
    _change: trio.Event = attrs.Factory(trio.Event)
    _first_registered: trio.Event = attrs.Factory(trio.Event)
    _working: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _finished: trio.Event = attrs.Factory(trio.Event)

    @classmethod
    def for_zookeeper(
        cls,
        config: ZooKeeperConfig,
        wanted: Callable[[], Registration],
        random: Random,
        is_noticed: Callable[[], bool] = _always,
    ) -> Registrar:
        """By ``zk.zkConnect``, which must be set."""
        if config.connect is None:
            raise ValueError("zk.zkConnect is blank")
        servers, path = split_connect(config.connect)
        settings = TreeSettings(
            servers=servers,
            session_timeout_seconds=config.session_timeout_ms / 1000,
            connection_timeout_seconds=config.connection_timeout_ms / 1000,
        )
        return cls(
            wanted,
            random,
            Layout(path + config.root),
            min(config.sync_time_ms / 1000, _SYNC_SECONDS_MAX),
            servers,
            lambda on_change: KazooTree.open(settings, on_change),
            is_noticed,
        )

    async def run(self) -> None:
        """Register, and stay registered, until :meth:`stop` or cancelled.

        Cancelled, the session is closed, within seconds, and the nodes go with it.
        """
        tree = self._tree = self._open_tree(self.wake)
        try:
            try:
                with self._working:
                    await self._keep_registered(tree)
                has_left = await self._leave(tree)
            finally:
                self._is_complete, self._problem = False, "the broker is stopping"
                with trio.CancelScope(shield=True):
                    await tree.close()
            if has_left and self._is_noticed():
                # The port is still open: whoever comes until the news has spread is served.
                await trio.sleep(self._sync_seconds)
        finally:
            self._finished.set()

    def wake(self) -> None:
        """Look again: the broker wants something else, or ZooKeeper has changed."""
        self._change.set()

    async def wait_registered(self) -> None:
        """Returns when everything has been registered once."""
        await self._first_registered.wait()

    async def stop(self) -> None:
        """Deregister, and give others ``zk.zkSyncTimeMs`` to notice; then the port may close.

        Without a connection there is nothing to wait for: the nodes go when the session expires.
        Takes a few seconds more than that at most. :meth:`run` must be running, and returns.
        """
        self._working.cancel()
        await self._finished.wait()

    def report(self) -> RegistrationReport:
        """How things stand."""
        session = None if self._tree is None else self._tree.session
        is_registered = self._is_complete and session is not None and session == self._session
        problem = "" if is_registered else self._problem
        if not problem and not is_registered:
            problem = str(ConnectionLostError(self._servers, "not connected"))
        return RegistrationReport(
            self._servers,
            session is not None,
            is_registered,
            problem,
            session,
            len(self._registered),
            is_beginning=self._is_beginning,
        )

    async def slaves(self, broker_id: int) -> list[RegisteredSlave]:
        """Who is registered as a slave of the broker now; raises ZooKeeperError."""
        if self._tree is None:
            raise ConnectionLostError(self._servers, "not connected")
        names = await self._tree.children(self._layout.broker(broker_id))
        found = [replica for name in names if (replica := Replica.parse_child(broker_id, name)) is not None]
        paths = {
            replica.slave_id: (
                self._layout.replica(replica),
                self._layout.merged_checksum(broker_id, replica.slave_id),
            )
            for replica in found
            if replica.slave_id is not None
        }
        nodes = await self._tree.read([path for both in paths.values() for path in both])
        slaves = []
        for slave_id, (address_path, checksum_path) in paths.items():
            address, checksum = nodes[address_path], nodes[checksum_path]
            slaves.append(
                RegisteredSlave(
                    slave_id,
                    None if address is None else parse_uri(address.data),
                    None if checksum is None else parse_number(checksum.data),
                )
            )
        return slaves

    # The loop.

    async def _keep_registered(self, tree: NodeTree) -> None:
        if tree.session is None:
            with trio.move_on_after(_CONNECT_SECONDS):
                await self._change.wait()
        while True:
            self._change = trio.Event()
            pause_seconds = await self._try_pass(tree)
            await trio.sleep(_PASS_SECONDS_MIN)
            with trio.move_on_after(pause_seconds):
                await self._change.wait()

    async def _try_pass(self, tree: NodeTree) -> float:
        """Bring ZooKeeper to what is wanted; returns how long to wait unless something happens."""
        try:
            await self._pass(tree)
        except ZooKeeperError as error:
            self._failed(error)
            if tree.session is None:
                await tree.revive()
            pause_seconds = self._retry_seconds * (1 - _JITTER * self._random.random())
            self._retry_seconds = min(2 * self._retry_seconds, _RETRY_SECONDS_MAX)
            return pause_seconds
        self._retry_seconds = _RETRY_SECONDS_MIN
        if not self._is_complete:
            self._is_complete, self._problem, self._is_beginning = True, "", False
            _log.info("Registered in ZooKeeper", servers=self._servers, topics=len(self._registered))
            self._first_registered.set()
        return max(0.0, self._audit_time - trio.current_time())

    def _failed(self, error: ZooKeeperError) -> None:
        now = trio.current_time()
        is_news = str(error) != self._problem
        if isinstance(error, _RivalError):
            if not self._first_registered.is_set():
                if self.on_holder is not None:
                    self.on_holder(error.who)
            elif self.on_rival is not None:
                self._lost_to = error
                self.on_rival(f"{error.who} is registered as {_role(error.replica)}")
            if is_news or now >= self._reminder_time:
                _log.error("Cannot register: the name is taken", reason=str(error))
                self._reminder_time = now + _REMIND_SECONDS
        elif is_news:
            _log.warning("Registration is not complete", reason=str(error))
        self._is_complete, self._problem, self._is_beginning = False, str(error), False

    async def _pass(self, tree: NodeTree) -> None:
        session = tree.session
        if session is None:
            # What stands there may have changed by the time of the next connection.
            self._audit_time = 0.0
            raise ConnectionLostError(self._servers, "not connected")
        if session != self._session:
            self._session, self._claim = session, None
            self._is_complete, self._problem = False, "registering in a new session"
            self._audit_time = 0.0
        if self._lost_to is not None:
            raise self._lost_to
        wanted = self._wanted()
        if trio.current_time() >= self._audit_time:
            self._registered.clear()
            seconds = max(_AUDIT_SECONDS_MIN, _AUDIT_SECONDS_PER_TOPIC * len(wanted.topics))
            self._audit_time = trio.current_time() + seconds * (1 - _JITTER * self._random.random())
        await self._claim_name(tree, wanted, session)
        # Before clients are told of its topics.
        if self.relocate is not None:
            await relocate(tree, self._layout, wanted.replica.broker_id, self.relocate)
            self.relocate = None
        if self.judge is not None:
            await bring_back(tree, self._layout, wanted.replica.broker_id, self.judge)
            self.judge = None
        await self._register_topics(tree, wanted, session)

    async def _claim_name(self, tree: NodeTree, wanted: Registration, session: int) -> None:
        """One by one: nothing of another broker is touched before the claim stands."""
        desired = broker_nodes(self._layout, wanted)
        for _round in range(_CLAIM_ROUNDS_MAX):
            existing = await tree.read([node.path for node in desired], is_watched=True)
            steps = plan(desired, existing, session)
            self._check_session(tree, session)
            if steps.rival is not None:
                self._claim = None
                raise _RivalError(wanted.replica, steps.rival)
            # From here on there may be something to remove.
            self._claim = wanted.replica
            if not steps.actions:
                return
            for action in steps.actions:
                await tree.apply([action])
        raise NodeFailedError(desired[0].path, "somebody changes it as often as it is written")

    async def _register_topics(self, tree: NodeTree, wanted: Registration, session: int) -> None:
        topics = {topic.topic: topic for topic in wanted.topics}
        gone = [topic for topic in self._touched if topic not in topics]
        for topic in gone:
            self._registered.pop(topic, None)
        changed = [topic for name, topic in topics.items() if self._registered.get(name) != topic]
        steps: list[tuple[str, list[DesiredNode]]] = [
            (topic, absent_topic_nodes(self._layout, wanted.replica, topic)) for topic in gone
        ]
        steps += [(topic.topic, topic_nodes(self._layout, wanted.replica, topic)) for topic in changed]
        batches = [
            steps[start : start + _TOPICS_PER_STEP] for start in range(0, len(steps), _TOPICS_PER_STEP)
        ]
        failure: NodeFailedError | None = None
        while batches:
            batch = batches.pop(0)
            self._touched.update(dict.fromkeys(topic for topic, _nodes in batch))
            try:
                nodes = [node for _topic, nodes in batch for node in nodes]
                existing = await tree.read([node.path for node in nodes])
                self._check_session(tree, session)
                await tree.apply(plan(nodes, existing, session).actions)
            except NodeFailedError as error:
                # One odd node does not keep the other topics away: they are tried one by one.
                failure = error
                batches += [[step] for step in batch] if len(batch) > 1 else []
                continue
            for topic, _nodes in batch:
                if topic in topics:
                    self._registered[topic] = topics[topic]
                else:
                    del self._touched[topic]
        if failure is not None:
            raise failure

    def _check_session(self, tree: NodeTree, session: int) -> None:
        """What was planned in one session is not for the next, to which its nodes are a stranger's."""
        if tree.session != session:
            raise ConnectionLostError(self._servers, "the session has ended")

    async def _leave(self, tree: NodeTree) -> bool:
        """Remove all that was made; tells whether there was something that others must notice."""
        if self._claim is None:
            return False
        if tree.session is None or tree.session != self._session:
            _log.warning("Deregistration is left to the session's end", servers=self._servers)
            return False
        has_left = False
        with trio.move_on_after(_DEPARTURE_SECONDS_MAX) as scope:
            try:
                has_left = await self._remove_all(tree, self._claim)
            except ZooKeeperError as error:
                _log.warning("Deregistration is left to the session's end", reason=str(error))
        if scope.cancelled_caught:
            _log.warning("Deregistration is left to the session's end", reason="it takes too long")
        return has_left or scope.cancelled_caught

    async def _remove_all(self, tree: NodeTree, claim: Replica) -> bool:
        path = self._layout.replica(claim)
        found = (await tree.read([path]))[path]
        if found is not None and found.owner != self._session:
            return False  # Somebody has the name by now; the end of the session takes what is left of ours.
        own, topics = departure(self._layout, claim, self._touched)
        for actions in [*([action] for action in own), topics]:
            try:
                await tree.apply(actions)
            except NodeFailedError as error:
                _log.warning("A node could not be removed", reason=str(error))
        _log.info("Deregistered from ZooKeeper", topics=len(self._touched))
        return True


def _role(replica: Replica) -> str:
    if replica.slave_id is None:
        return f"master of broker {replica.broker_id}"
    return f"slave {replica.slave_id} of broker {replica.broker_id}"

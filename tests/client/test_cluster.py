"""What a client knows of brokers and topics, as one value."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from metaserver.client.cluster import Cluster
from metaserver.client.partition import Partition
from metaserver.registry.paths import Replica

MASTER, SLAVE_0, SLAVE_1, OTHER = Replica(0), Replica(0, 0), Replica(0, 1), Replica(11)
BROKERS = {replica: (str(replica), 1) for replica in (SLAVE_1, OTHER, SLAVE_0, MASTER)}


def test_messages_go_to_masters_that_are_alive() -> None:
    published = {"t": {OTHER: 1, MASTER: 2, SLAVE_0: 5, Replica(3): 4}}
    cluster = Cluster(BROKERS, published, {})
    assert cluster.writable("t") == (Partition("t", 0, 0), Partition("t", 0, 1), Partition("t", 11, 0))
    assert cluster.writable("u") == ()
    assert cluster.master_address(Partition("t", 0, 9)) == ("0-m", 1)
    assert cluster.master_address(Partition("t", 3, 0)) is None


def test_partitions_are_shared_in_the_order_of_their_names() -> None:
    cluster = Cluster(BROKERS, {}, {"t": {MASTER: 11, SLAVE_0: 3, OTHER: 1}})
    names = [str(partition.in_topic) for partition in cluster.readable("t")]
    assert names == ["0-0", "0-1", "0-10", *(f"0-{number}" for number in range(2, 10)), "11-0"]


def test_a_partition_outlives_its_master_where_a_slave_has_it() -> None:
    cluster = Cluster({SLAVE_0: ("s", 1)}, {}, {"t": {SLAVE_0: 2}})
    assert cluster.readable("t") == (Partition("t", 0, 0), Partition("t", 0, 1))
    assert cluster.replicas(Partition("t", 0, 1)) == (SLAVE_0,)


def test_who_can_be_asked_the_master_first() -> None:
    subscribed = {"t": {SLAVE_1: 2, SLAVE_0: 1, MASTER: 2, OTHER: 9, Replica(0, 7): 9}}
    cluster = Cluster(BROKERS, {}, subscribed)
    assert cluster.replicas(Partition("t", 0, 0)) == (MASTER, SLAVE_0, SLAVE_1)
    assert cluster.replicas(Partition("t", 0, 1)) == (MASTER, SLAVE_1)
    assert cluster.replicas(Partition("t", 0, 2)) == ()
    assert cluster.replicas(Partition("u", 0, 0)) == ()


REPLICAS = st.builds(Replica, st.integers(0, 12), st.none() | st.integers(0, 2))


@given(st.dictionaries(REPLICAS, st.integers(0, 12)))
def test_every_partition_once_and_each_has_a_replica(counts: dict[Replica, int]) -> None:
    cluster = Cluster(dict.fromkeys(counts, ("h", 1)), {"t": counts}, {"t": counts})
    readable = cluster.readable("t")
    assert len(set(readable)) == len(readable)
    assert sorted(readable, key=lambda partition: str(partition.in_topic)) == list(readable)
    assert all(cluster.replicas(partition) for partition in readable)
    assert set(cluster.writable("t")) <= set(readable)

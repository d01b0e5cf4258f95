"""Who is where: brokers, topics, group members, owners and offsets, in ZooKeeper's data layout.

``embedded`` is a ZooKeeper of one node inside the broker process, for those who have none.
"""

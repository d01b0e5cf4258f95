"""The composition root: a configuration in, a running master or slave out.

The only place that knows which clock, disk, network and randomness are real.
"""

from metaserver.node.node import NodeAddresses, NodeError, run_node
from metaserver.node.paths import NodePaths

__all__ = ["NodeAddresses", "NodeError", "NodePaths", "run_node"]

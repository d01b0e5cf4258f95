"""What a node says and takes over HTTP, on ``dashboardHttpPort``.

=====================  ==========================================================================
``/metrics``           Prometheus' text format
``/healthz``           200 while the process answers at all
``/readyz``            200 when the broker does its work, 503 with the reasons while it does not
``/api/v1/status``     what ``metaServer status`` shows, as JSON
``/api/v1/…``          messages, groups, replicas (``openapi.py`` has the list)
``/get/…`` and others  MetaQ's interface for messages
``/console/…``         pages for people
=====================  ==========================================================================

The first four need no token; :mod:`metaserver.http.access` says who may do the rest.
"""

from metaserver.http.server import HttpPortError, serve_http
from metaserver.http.source import BrokerDoor, HttpLimits, HttpSource, TopicTraffic, Traffic

__all__ = [
    "BrokerDoor",
    "HttpLimits",
    "HttpPortError",
    "HttpSource",
    "TopicTraffic",
    "Traffic",
    "serve_http",
]

"""Metrics, health and status over HTTP, on ``dashboardHttpPort``. Read-only, without authentication.

=====================  ==========================================================================
``/metrics``           Prometheus' text format
``/healthz``           200 while the process answers at all
``/readyz``            200 when the broker does its work, 503 with the reasons while it does not
``/api/v1/status``     what ``metaServer status`` shows, as JSON
=====================  ==========================================================================

Nothing here can change a broker: administration goes through the control socket only.
"""

from metaserver.http.server import HttpPortError, serve_http
from metaserver.http.source import HttpLimits, HttpSource

__all__ = ["HttpLimits", "HttpPortError", "HttpSource", "serve_http"]

"""The local control socket: how the command line talks to a running broker.

A Unix stream socket in the logs directory, open to the broker's own user only (mode 0600). Both
sides send JSON objects, one a line::

    {"command": "stats", "item": "topics"}
    {"ok": true, "result": {"text": "..."}}
    {"ok": false, "error": "unknown command 'stat'; the commands are reload, stats, status"}
    {"ok": false, "error": "...", "problems": ["a sentence for each problem of the configuration"]}

``server`` runs inside a broker, on trio. ``client`` is plain blocking Python and imports quickly,
because every ``metaServer status`` pays for it. So this package imports neither by itself.
"""

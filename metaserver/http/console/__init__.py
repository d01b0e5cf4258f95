"""The console: pages for people, below ``/console/``.

Server-rendered, with a little script that draws charts and replaces what has changed; without it everything
can be done as well. Whatever messages, topics and groups hold is escaped by the templates, and only files of
ours are loaded or run (Content-Security-Policy).
"""

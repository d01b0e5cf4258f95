"""The composition root: a configuration in, a running master or slave out.

The only place that knows which clock, disk, network and randomness are real. ``node`` runs on trio;
``paths`` is plain and imports quickly, because every ``metaServer status`` pays for it. So this package
imports neither by itself.
"""

"""HTTP as handlers share it, in no dialect.

asgi.py      the front door: one application, one table of routes   exchange.py  a bounded body in, a response out
bodies.py    JSON, read strictly                                    nulls.py     fields that say nothing
errors.py    an error's status and headers                          labels.py    the label that headers declare
metrics.py   counters for Prometheus                                router.py    from a method and a path to a route
"""

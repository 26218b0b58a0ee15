"""The situations that evio must live through, each with two loads.

The light load is a test of every run, `tests/server/test_situations.py`; the heavy one is what
`make soak` is for. Both are the same function, in a process of its own, on each engine.

Layout:
    situation.py     what a situation is, and how one is run
    tools.py         what several of them need: processes beside the server, latencies, memory
    connections.py   1 to 8      system.py      9 to 16     callbacks.py   17 to 21
    python.py        22 to 26    requests.py    27 to 30    appendonly.py  31 to 37
    model.py         38: all of it at once, at random, against a model of the contract
    __main__.py      make soak
"""

from __future__ import annotations

"""The worker pool that alone loads models, and the client by which everything else asks it.

`pool.py` runs the pool: it takes jobs in turn (`fair_queue.py`) and hands each to one of its processes (`workers.py`), which
work them off (`worker.py`). `client.py` is the web side; `framing.py` and `protocol.py` are what both speak.
"""

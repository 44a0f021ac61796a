"""The worker pool that alone loads models: the client the web side uses, and the WSGI application the pool runs.

The web side imports `app.embedder.client`; `app.embedder.wsgi` and `app.embedder.worker` belong to the pool's own processes.
"""

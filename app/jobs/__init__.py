"""The jobs worker: `python -m app.jobs` does what requests have left for later."""

"""Prepares every domain's dataset: `python -m app.datasets.prepare`, run beside the start of the service."""

from app.config import load_settings
from app.datasets.store import DatasetStore
from app.logs import configure_logging
from app.vision.packs import PackStore

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings, settings.logs_dir / "serve.log")
    DatasetStore(settings, PackStore(settings.models_dir)).prepare()

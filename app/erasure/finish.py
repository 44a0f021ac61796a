"""Finishes erasures that were broken off: `python -m app.erasure.finish`, run beside the start of the service."""

import gc
import sys

from app.config import load_settings
from app.datasets.store import DatasetStore
from app.db.session import Database
from app.enrolment.images import ImageStore
from app.erasure.building import build_erasure
from app.errors import DatabaseDisabled, FacedexError
from app.logs import configure_logging
from app.tenancy import acting, everything
from app.vision.packs import PackStore


def main() -> int:
    """Take up what was left; the exit code."""
    gc.freeze()  # the program stays: the collector need not look at it again, least of all at the end
    settings = load_settings()
    configure_logging(settings, settings.logs_dir / "serve.log")
    packs = PackStore(settings.models_dir)
    images = ImageStore(settings.images_dir, enabled=settings.store_images)
    service = build_erasure(settings, Database(settings), packs, DatasetStore(settings, packs), images)
    try:
        with acting(everything("start")):
            left = [receipt for receipt in service.finish() if not receipt.is_finished]
            service.sweep()
    except DatabaseDisabled:
        return 0
    except (FacedexError, OSError) as error:
        sys.stderr.write(f"facedex: erasures could not be finished: {error}\n")
        return 1
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())

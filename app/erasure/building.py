"""The erasure service of an installation, with all its places."""

from app.config import Settings
from app.datasets.forgetting import DatasetForgetting
from app.datasets.store import DatasetStore
from app.db.session import Database
from app.enrolment.images import ImageStore
from app.erasure.places import ExtractedFaces
from app.erasure.receipt import IN_PROCESS_MEMORY
from app.erasure.service import ErasureService
from app.vision.packs import PackStore


def build_erasure(
    settings: Settings, database: Database, packs: PackStore, datasets: DatasetStore, images: ImageStore
) -> ErasureService:
    """The service that the web, commands and the service's start use alike."""
    in_memory = settings.face_cache_ttl_s > 0 and settings.redis_url is None
    return ErasureService(
        database,
        packs,
        DatasetForgetting(settings, datasets),
        images,
        also=(ExtractedFaces(settings, database),),
        remains=(IN_PROCESS_MEMORY,) if in_memory else (),
    )

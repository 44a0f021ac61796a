"""The PKL service over real datasets of five versions of DeepFace, with the real model and without any database."""

import pytest

from app.config import parse_settings
from app.datasets.store import DatasetStore
from app.deadline import Deadline
from app.errors import ContractMismatch, DatabaseDisabled, DomainNotFound
from app.recognition.matching import Decision, decide
from app.recognition.pkl import PklRecognition
from app.recognition.service import SearchQuery
from app.vision.engine import load_engine
from app.vision.faces import Analysis
from app.vision.packs import InstalledPack, PackStore
from tests import deepface_files as files
from tests.packs import install_dlib
from tests.pictures import GALLERY_SIZE, MAX_PIXELS, lfw10


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> InstalledPack:
    return install_dlib(tmp_path_factory.mktemp("storage") / "models")


@pytest.fixture(scope="module")
def probes(pack) -> list[tuple[str, Analysis]]:
    """Thirty pictures, with who is on them."""
    engine = load_engine(pack)
    return [
        (person, engine.analyze(picture.read_bytes(), max_pixels=MAX_PIXELS, embed="all"))
        for person, pictures in lfw10().items()
        for picture in pictures[GALLERY_SIZE:]
    ]


@pytest.fixture
def service(pack) -> PklRecognition:
    storage = pack.folder.parents[1]
    settings = parse_settings(storage_dir=storage, vector_db_enabled=False, pkl_datasets=files.real_datasets())
    return PklRecognition(DatasetStore(settings, PackStore(settings.models_dir)))


def test_an_id_that_only_the_database_could_know_is_answered_with_use_the_name(tmp_path):
    settings = parse_settings(storage_dir=tmp_path, vector_db_enabled=False, pkl_datasets={})
    service = PklRecognition(DatasetStore(settings, PackStore(settings.models_dir)))
    with pytest.raises(DomainNotFound, match="use the name"):
        service.open("6f1c2f0e-9d5a-4c5e-8b3d-0123456789ab", Deadline.after(1))
    with pytest.raises(DomainNotFound) as caught:
        service.open("people", Deadline.after(1))
    assert "use the name" not in str(caught.value)


def named(service: PklRecognition, domain: str, probe: Analysis, query: SearchQuery) -> str | None:
    """Who `best_match` would be."""
    gallery = service.open(domain, Deadline.after(120))
    with gallery.searched([face.embedding for face in probe.faces], query, Deadline.after(10)) as hits:
        pass
    matches = [
        found.candidates[0]
        for found in hits
        if decide(found.candidates, threshold=query.threshold, margin=query.margin) is Decision.MATCH
    ]
    return min(matches, key=lambda match: match.distance).label if matches else None


@pytest.mark.parametrize(
    ("version", "rows"),
    [
        ("deepface-0.0.75", 70),
        ("deepface-0.0.84", 73),
        ("deepface-0.0.89", 73),
        ("deepface-0.0.93", 73),
        ("deepface-0.0.103", 73),
    ],
)
def test_thirty_probes_are_named_right_and_none_wrong_from_each_versions_dataset(service, pack, probes, version, rows):
    calibration = pack.manifest.calibration
    query = SearchQuery(pack.manifest.contract.id, 5, calibration.threshold, calibration.margin)
    assert service.open(version, Deadline.after(120)).dataset.record.rows == rows
    found = [(named(service, version, probe, query), person) for person, probe in probes]
    assert len(found) == 30
    assert [pair for pair in found if pair[0] not in (None, pair[1])] == []
    assert sum(name == person for name, person in found) >= 28


def test_probes_of_another_model_never_meet_a_dataset(service):
    gallery = service.open("deepface-0.0.93", Deadline.after(120))
    query = SearchQuery("arcface-112:128:b7120c095d60094f", 5, 0.6, 0.05)
    with pytest.raises(ContractMismatch, match="dlib"):
        gallery.searched([files.vectors(1)[0]], query, Deadline.after(1))


def test_a_picture_without_faces_finds_nobody(service, pack):
    query = SearchQuery(pack.manifest.contract.id, 5, 0.07, 0.01)
    with service.open("deepface-0.0.93", Deadline.after(120)).searched([], query, Deadline.after(1)) as hits:
        assert hits == []


def test_a_domain_without_a_dataset_is_no_domain(service):
    with pytest.raises(DomainNotFound):
        service.open("nowhere", Deadline.after(1))


def test_a_database_that_is_switched_off_is_never_connected_to(tmp_path):
    from app.db.session import Database

    database = Database(parse_settings(storage_dir=tmp_path, vector_db_enabled=False, vector_db_url="postgresql://x/y"))
    for use in (database.ping, database.check_ready, lambda: database.transaction().__enter__()):
        with pytest.raises(DatabaseDisabled, match="VECTOR_DB_ENABLED"):
            use()
    with pytest.raises(DatabaseDisabled), database.maintenance():
        raise AssertionError

"""What Facedex knows about packs before they are installed: terms, calibration, addresses, digests. Pure data."""

from dataclasses import dataclass

from app.vision.packs import Calibration, FalseMatches, Licence

DLIB_LICENCE = Licence(name="weights: CC0 1.0; dlib: Boost 1.0", non_commercial=False, must_accept=False)
DLIB_CALIBRATION = Calibration(
    threshold=0.07,
    slope=133.0,
    margin=0.01,
    basis="Threshold: DeepFace's for its model Dlib. Confirmed, and slope fitted, on the 450 genuine and 4,500 impostor "
    "pairs of 100 pictures of ten persons (LFW): FMR 0 of 4,500, FNMR 0.09.",
    false_matches=FalseMatches(
        points=((1e-1, 0.1035), (1e-2, 0.0879), (1e-3, 0.0723), (1e-4, 0.0566), (1e-5, 0.0410)),
        basis="900 claims: each of ten men (LFW) against the seven templates of each other, nearest one. Only 1e-1 and 1e-2 were "
        "seen; below, the exponential tail that fits the nearest tenth is prolonged, which falls more slowly than the claims did. "
        "Ten persons are few: drawing them anew puts the distance at 1e-3 between 0.063 and 0.082 (90 %), so that the true rate "
        "where 1e-3 is stated may be several times as high.",
    ),
)
DLIB_MIN_SHARPNESS = 10.0

INSIGHTFACE_LICENCE = Licence(
    name="insightface pretrained models: non-commercial research purposes only "
    "(https://github.com/deepinsight/insightface#license)",
    non_commercial=True,
)
INSIGHTFACE_MIN_SHARPNESS = 15.0
# Every SCRFD and ArcFace pack whose installer gives no threshold of its own.
INSIGHTFACE_CALIBRATION = Calibration(
    threshold=0.55,
    slope=25.0,
    margin=0.04,
    basis="Not measured by Facedex. Threshold: DeepFace's for its model Buffalo_L; slope and margin: those measured with a "
    "MobileFaceNet of the same loss.",
)
INSIGHTFACE_RELEASE_URL = "https://github.com/deepinsight/insightface/releases/download/v0.7/"


@dataclass(frozen=True, slots=True)
class KnownPack:
    """A pack that `install` can fetch.

    Attributes:
        dimension: length of its embeddings, to be shown before it is installed.
        archive_sha256: digest of the archive; None where none was published: what came first is then trusted.
    """

    name: str
    title: str
    dimension: int
    archive_sha256: str | None

    @property
    def archive_name(self) -> str:
        """File name below the release's address."""
        return f"{self.name}.zip"


# Source of the digests: published alike by many projects that fetch these archives; the archives were not fetched here.
KNOWN_PACKS = {
    pack.name: pack
    for pack in (
        KnownPack(
            "buffalo_l",
            "insightface buffalo_l: SCRFD-10GF, ResNet-50 on WebFace600K",
            512,
            "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f",
        ),
        KnownPack("buffalo_m", "insightface buffalo_m: SCRFD-2.5GF, ResNet-50 on WebFace600K", 512, None),
        KnownPack(
            "buffalo_s",
            "insightface buffalo_s: SCRFD-500MF, MobileFaceNet on WebFace600K",
            512,
            "d85a87f503f691807cd8bb97128bdf7a0660326cd9cd02657127fa978bab8b5e",
        ),
        KnownPack(
            "buffalo_sc",
            "insightface buffalo_sc: SCRFD-500MF, MobileFaceNet on WebFace600K",
            512,
            "57d31b56b6ffa911c8a73cfc1707c73cab76efe7f13b675a05223bf42de47c72",
        ),
        KnownPack(
            "antelopev2",
            "insightface antelopev2: SCRFD-10GF, ResNet-100 on Glint360K",
            512,
            "8e182f14fc6e80b3bfa375b33eb6cff7ee05d8ef7633e738d1c89021dcf0c5c5",
        ),
    )
}

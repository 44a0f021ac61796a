"""What Facedex knows about packs before they are installed: names, terms, calibration. Pure data."""

from app.vision.packs import Calibration, Licence

DLIB_CALIBRATION = Calibration(threshold=0.08, slope=100.0, margin=0.01, basis="to be measured")
DLIB_LICENCE = Licence(
    name="CC0 1.0 (Davis King); dlib itself: Boost Software License", non_commercial=False, must_accept=False
)
DLIB_MIN_SHARPNESS = 0.0

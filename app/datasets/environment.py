"""What processes that handle datasets inherit: no secrets, since they need none."""

import os
from typing import Final

from app.config import PROJECT_ROOT

BARE_ENVIRONMENT: Final = {
    "PATH": os.defpath,
    "PYTHONPATH": str(PROJECT_ROOT),
    "PYTHONUTF8": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

"""DeepFace's `find`, one picture at a time, over a dataset in its own form."""

import json
import sys
import time
from pathlib import Path

from deepface import DeepFace


def main() -> None:
    """Times in milliseconds, after one picture that is not counted."""
    asked = json.loads(sys.argv[1])
    times = []
    for number in range(asked["runs"] + 1):
        started_s = time.perf_counter()
        DeepFace.find(
            asked["pictures"][number % len(asked["pictures"])],
            db_path=asked["folder"],
            model_name="Dlib",
            detector_backend="dlib",
            enforce_detection=False,
            refresh_database=False,  # it would look at each file of the dataset every time
            silent=True,
        )
        times.append((time.perf_counter() - started_s) * 1e3)
    print(json.dumps({"times_ms": times[1:], "rss_bytes": rss_bytes()}))


def rss_bytes() -> int:
    """Resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


main()

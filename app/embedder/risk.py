"""How many workers may be risked on a picture: as many as may die of it, and no more, until one has survived it."""

from collections import Counter, OrderedDict
from typing import Final

from app.embedder.job import Job
from app.embedder.quarantine import STRIKES, Quarantine

# So many pictures are known as harmless; those that came longest ago are tried anew.
_PROVEN_MAX: Final = 4096

# A picture's digest, and what is done with it.
_Deed = tuple[str, str]


class Risks:
    """What is known of the pictures that workers are given."""

    def __init__(self, quarantine: Quarantine, default_model: str) -> None:
        self._quarantine = quarantine
        self._default_model = default_model
        self._at_risk: Counter[str] = Counter()
        self._proven: OrderedDict[_Deed, None] = OrderedDict()

    def may_go(self, job: Job) -> bool:
        """Whether one more worker may be given it now."""
        sha256 = job.sha256
        return self.is_proven(job) or self._at_risk[sha256] < max(1, STRIKES - self._quarantine.strikes(sha256))

    def is_proven(self, job: Job) -> bool:
        """Whether a worker has done this very thing with this very picture, and none has died of it since."""
        return self._deed(job) in self._proven

    def taken(self, job: Job) -> None:
        """A worker is about to be given a job that is not proven: whatever becomes of it, this is what it was doing."""
        self._at_risk[job.sha256] += 1

    def landed(self, job: Job) -> None:
        """A worker that had `taken` it has it no more."""
        self._at_risk[job.sha256] -= 1
        if not self._at_risk[job.sha256]:
            del self._at_risk[job.sha256]

    def survived(self, job: Job) -> None:
        """A worker has done it."""
        deed = self._deed(job)
        self._proven[deed] = None
        self._proven.move_to_end(deed)
        if len(self._proven) > _PROVEN_MAX:
            self._proven.popitem(last=False)
        self._quarantine.survived(job.sha256, deed[1])

    def killed(self, job: Job, cause: str) -> None:
        """A worker has died of it."""
        deed = self._deed(job)
        self._proven.pop(deed, None)
        self._quarantine.strike(job.sha256, cause, deed[1])

    def _deed(self, job: Job) -> _Deed:
        return job.sha256, f"{job.model or self._default_model}/{job.way}"

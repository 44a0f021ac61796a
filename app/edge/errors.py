"""Everything that the edge raises on purpose.

EdgeError
├── GalleryError               a change that the gallery refuses; what it had stays
│   ├── DuplicateMember        one key twice in one change
│   ├── WrongDimension         vectors of another length
│   ├── NotFinite              NaN, infinity, or a vector without a direction
│   └── WrongContract          embeddings of another model
├── SourceError                members cannot be had
│   ├── SourceUnavailable      it does not answer, or says that it cannot now
│   ├── SourceRefused          it does not let this controller in, or knows no such domain
│   │   └── SourceWithdrawn    the source itself says so: this controller may have nothing of it
│   ├── MalformedMembers       what it sent is not what was agreed on
│   └── CacheUnusable          the local file is missing, damaged, of another model or too old
├── ConfigError                the file of settings
├── RecognizeError             no answer that can be used came of a picture
│   ├── RecognizeUnavailable   the recognition service does not answer, or says that it cannot now
│   └── RecognizeRefused       it does not let this controller in, knows no such domain, or takes no such picture
└── BrokerError                the MQTT broker cannot be reached
"""


class EdgeError(Exception):
    """Base class; `str` is a sentence for the operator, without secrets."""


class GalleryError(EdgeError):
    """A change that the gallery refuses; what it had stays as it was."""


class DuplicateMember(GalleryError):
    """One key stands twice in one change."""


class WrongDimension(GalleryError):
    """A vector has another length than the gallery's."""


class NotFinite(GalleryError):
    """A vector holds NaN or infinity, or is all zero."""


class WrongContract(GalleryError):
    """The embeddings are another model's: they cannot be compared with the gallery's."""


class SourceError(EdgeError):
    """Members cannot be had from where they come from."""


class SourceUnavailable(SourceError):
    """It does not answer, or says that it cannot now; asking again later may help."""


class SourceRefused(SourceError):
    """It does not let this controller in, or knows no such domain; somebody has to change something."""


class SourceWithdrawn(SourceRefused):
    """The source itself says that this controller may have nothing: the key is void, or the domain is gone."""


class MalformedMembers(SourceError):
    """What it sent is not what was agreed on."""


class CacheUnusable(SourceError):
    """The local file is missing, damaged, of another model, or too old."""


class ConfigError(EdgeError):
    """A setting is missing, unknown or malformed; the message names it."""


class RecognizeError(EdgeError):
    """No answer that can be used came of a picture."""


class RecognizeUnavailable(RecognizeError):
    """The recognition service does not answer, or says that it cannot now; asking again later may help."""


class RecognizeRefused(RecognizeError):
    """It does not let this controller in, knows no such domain, or takes no such picture; asking again is of no use."""


class BrokerError(EdgeError):
    """The MQTT broker cannot be reached, or does not let this controller in."""

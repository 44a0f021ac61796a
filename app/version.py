"""The version of Facedex."""

from typing import Final

VERSION: Final = "0.1.0"

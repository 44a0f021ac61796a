"""The services over a database of the test's own and drawn pictures, and two domains in it."""

from tests.enrolment.conftest import office
from tests.sessions.studio import studio

__all__ = ["office", "studio"]

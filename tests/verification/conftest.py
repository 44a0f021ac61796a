"""The services over a database of the test's own and drawn pictures, and two domains in it."""

from tests.enrolment.conftest import office

__all__ = ["office"]

import contextvars
import threading

import pytest

from app.errors import DatabaseTimeout, DatabaseUnavailable
from app.recognition.patience import within


def test_the_result_and_the_error_are_those_of_the_work():
    assert within(30, lambda: 7) == 7
    with pytest.raises(DatabaseTimeout, match="slow"):
        within(30, lambda: (_ for _ in ()).throw(DatabaseTimeout("slow")))


def test_what_never_answers_is_given_up():
    never = threading.Event()
    try:
        with pytest.raises(DatabaseUnavailable, match="did not answer"):
            within(0.01, never.wait)
    finally:
        never.set()


def test_a_time_limit_of_the_work_itself_is_not_taken_for_ours():
    def work() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        within(30, work)


def test_the_work_has_the_callers_context():
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("request 7")
    assert within(30, variable.get) == "request 7"

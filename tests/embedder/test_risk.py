import pytest

from app.deadline import Deadline
from app.embedder.job import Job
from app.embedder.quarantine import Quarantine
from app.embedder.risk import Risks


def job(sha256: str = "a" * 64, *, embed: str = "all", model: str = "", effort: str = "usual") -> Job:
    return Job(
        sha256=sha256,
        length=1,
        deadline=Deadline.after(9),
        embed=embed,
        model=model,
        client="",
        request_id="",
        again=False,
        effort=effort,
    )


@pytest.fixture
def risks(tmp_path):
    return Risks(Quarantine(tmp_path / "quarantine.json", keep_s=60), "dlib")


def test_two_workers_at_most_try_a_picture_that_nobody_knows(risks):
    assert risks.may_go(job())
    risks.taken(job())
    risks.taken(job(embed="none"))
    assert not risks.may_go(job())
    assert not risks.may_go(job(model="other"))
    assert risks.may_go(job("b" * 64))
    risks.landed(job())
    assert risks.may_go(job())


def test_one_worker_tries_a_picture_that_another_died_of(risks):
    risks.killed(job(), "sigsegv")
    assert risks.may_go(job())
    risks.taken(job())
    assert not risks.may_go(job())


def test_any_number_of_workers_do_what_one_has_survived(risks):
    risks.taken(job())
    risks.taken(job())
    risks.survived(job())
    assert risks.may_go(job())
    assert risks.may_go(job(model="dlib"))
    for other in (job(embed="none"), job(model="other"), job(effort="thorough")):
        assert not risks.may_go(other)
    risks.killed(job(), "sigsegv")
    assert not risks.may_go(job())

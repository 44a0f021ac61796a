"""Sessions on a real database: enrolled, verified, resumed, ended."""

import io
import json
import zipfile
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import event, text

from app.deadline import Deadline
from app.enrolment.images import ImageStore
from app.enrolment.persons import PersonChange, PersonDetails
from app.erasure.export import PersonExport
from app.errors import (
    DatabaseTimeout,
    DatabaseUnavailable,
    InvalidRequest,
    NoTemplates,
    NotTheSessionsKey,
    PersonNotFound,
    PoolBusy,
    SessionEnded,
    SessionExpired,
    SessionKeyEnded,
    SessionNotFound,
    SessionTakenOver,
    TooManySessions,
    TooManyStreams,
    WrongSessionToken,
)
from app.sessions import service
from app.sessions.service import Kind, SessionService, Wanted
from app.tenancy import Reach, acting, everything
from app.vision.packs import PackStore
from tests.db_server import normalised
from tests.enrolment.drawn import THRESHOLD, axis, between, draw
from tests.sessions.studio import look, reasons, show


def views(person: int, count: int, spread: float = 0.3 * THRESHOLD) -> list[np.ndarray]:
    """Up to seven views of one person, each at that distance from what is common to them, and from each other at twice that."""
    return [between(axis(person), axis((person + 1 + n) % 8), spread) for n in range(count)]


def still(person: int, count: int) -> list[np.ndarray]:
    """Views of somebody who hardly moves."""
    noise = np.random.default_rng(person).normal(size=(count, 8)) * 0.025
    return list(normalised(axis(person) + noise))


def test_five_views_become_five_templates(studio, office):
    stream = studio.stream("Ana")
    greeting = stream.greeting()
    assert (greeting["type"], greeting["kind"], greeting["person"]) == ("ready", "enrol", "Ana")
    answers = show(stream, *views(0, 7))
    result = answers[-1]["result"]
    assert (result["outcome"], result["templates"], result["new_person"]) == ("enrolled", 5, True)
    assert office.persons.get("people", "Ana").faces == 5
    info = studio.sessions.read(stream.id)
    assert (info.state, info.progress) == ("succeeded", {"templates": 5, "wanted": 5})
    assert info.person_id == office.persons.get("people", "Ana").id
    assert _count(studio, "face_session_frames") == 0
    assert office.events() == ["session.created", *["face.enrolled"] * 5, "session.succeeded"]


def test_verification_accepts_the_person_and_rejects_another(studio, office):
    office.enrol("Ana", *views(0, 3))
    right = show(studio.stream("Ana", Kind.VERIFY), *views(0, 7)[3:])
    assert right[-1]["result"] | {"distance": 0, "confidence": 0} == {
        "outcome": "verified",
        "verified": True,
        "reason": None,
        "good_frames": 3,
        "distance": 0,
        "threshold": right[-1]["result"]["threshold"],
        "confidence": 0,
        "false_match_rate": 0.001,
        "person": "Ana",
    }
    stream = studio.stream("Ana", Kind.VERIFY)
    wrong = show(stream, *still(1, 30))
    assert (wrong[-1]["result"]["verified"], wrong[-1]["result"]["reason"]) == (False, "another_person")
    assert studio.sessions.read(stream.id).state == "failed"


def test_what_is_enrolled_already_is_not_enrolled_again(studio, office):
    seen = views(0, 5)
    show(studio.stream("Ana"), *seen)
    stream = studio.stream("Ana")
    answers = show(stream, *seen)
    assert reasons(answers) == [["too_similar"]] * 5
    assert stream.finish()["result"]["reason"] == "too_few_frames"
    assert office.persons.get("people", "Ana").faces == 5


def test_pictures_of_picked_frames_are_kept_where_pictures_are(studio, office, database, database_settings, models):
    settings = database_settings.model_copy(update={"store_images": True})
    images = ImageStore(settings.images_dir, enabled=True)
    sessions = SessionService(settings, database, studio.camera, PackStore(models), images)
    info, token = sessions.create("people", "Ana", Kind.ENROL, Wanted(templates=2))
    seen = views(0, 3)
    show(first := sessions.open_stream(info.id, token), seen[0])
    first.close()
    result = show(sessions.open_stream(info.id, token), *seen[1:], first=1)[-1]["result"]
    kept = {path.name: path.read_bytes() for path in settings.images_dir.rglob("*") if path.is_file()}
    assert result["outcome"] == "enrolled"
    assert kept == {face: draw(seen[number], salt=number) for number, face in enumerate(result["faces"])}


def test_another_person_is_never_mixed_in_and_two_frames_of_them_end_it(studio, office):
    stream = studio.stream("Ana")
    answers = show(stream, *views(0, 3), *views(1, 2))
    assert reasons(answers)[3:] == [["another_person"], ["another_person"]]
    assert answers[-1]["result"] == {
        "outcome": "not_enrolled",
        "reason": "several_persons",
        "templates": 0,
        "duplicates": 0,
        "person": "Ana",
    }
    with pytest.raises(PersonNotFound):
        office.persons.get("people", "Ana")
    assert (_count(studio, "face_embeddings"), _count(studio, "face_session_frames")) == (0, 0)


def test_a_stranger_in_the_first_frame_is_passed_over(studio, office):
    show(stream := studio.stream("Ana"), *views(1, 1), *views(0, 6))
    assert studio.sessions.read(stream.id).state == "succeeded"
    assert office.labels(axis(0)) == ["Ana"]
    assert office.found(axis(1))[0].min_distance > 0.5


def test_frames_of_somebody_else_than_the_person_who_is_enrolled(studio, office):
    office.enrol("Ana", *views(0, 2))
    answers = show(studio.stream("Ana"), *views(1, 3))
    assert reasons(answers) == [["another_person"]] * 2
    assert answers[-1]["result"]["reason"] == "several_persons"


@pytest.mark.parametrize("meanwhile", ["another session", "a photo", "a photo, and a new connection"])
def test_whoever_got_another_face_meanwhile_gets_none_of_these(studio, office, meanwhile):
    """What the person has is read when the stream is opened; what comes until the end counts too."""
    info, token = studio.make("Ana")
    stream = studio.sessions.open_stream(info.id, token)
    show(stream, *views(0, 4))
    if meanwhile == "another session":
        assert show(studio.stream("Ana"), *views(1, 5))[-1]["result"]["outcome"] == "enrolled"
    else:
        office.enrol("Ana", *views(1, 2))
    before = office.persons.get("people", "Ana").faces
    if "connection" in meanwhile:
        stream = studio.sessions.open_stream(info.id, token)
        result = stream.finish()["result"]
    else:
        result = show(stream, views(0, 5)[4], first=4)[-1]["result"]
    assert (result["outcome"], result["reason"]) == ("not_enrolled", "another_person")
    assert studio.sessions.read(info.id).state == "failed"
    assert office.persons.get("people", "Ana").faces == before
    assert office.found(axis(0))[0].min_distance > THRESHOLD


def test_the_same_face_that_came_meanwhile_is_no_hindrance(studio, office):
    show(stream := studio.stream("Ana"), *views(0, 4))
    office.enrol("Ana", axis(0))
    assert show(stream, views(0, 5)[4], first=4)[-1]["result"]["outcome"] == "enrolled"


def test_whom_the_new_templates_resemble_is_said_to_the_key_and_not_to_the_camera(studio, office):
    office.enrol("Eva", axis(0))
    stream = studio.stream("Ana")
    told = show(stream, *views(0, 5))[-1]["result"]
    kept = studio.sessions.read(stream.id).result
    assert "warnings" not in told
    assert {warning["code"] for warning in kept["warnings"]} <= {"closer_to_other", "resembles_other"}
    assert kept["warnings"][0]["face"] in kept["faces"]
    assert "Eva" not in json.dumps(kept)


def test_a_person_who_does_not_move_is_enrolled_in_the_end(studio):
    answers = show(studio.stream("Ana", max_frames=40), *still(0, 40))
    assert len(answers) > 20
    assert answers[-1]["result"]["outcome"] == "enrolled"


def test_a_session_goes_on_where_another_connection_left_it(studio, office):
    info, token = studio.make("Ana")
    first = studio.sessions.open_stream(info.id, token)
    show(first, *views(0, 3))
    first.close()
    assert studio.sessions.read(info.id).frames == 3
    second = studio.sessions.open_stream(str(info.id), token)
    assert second.greeting()["progress"] == {"templates": 3, "wanted": 5}
    with pytest.raises(SessionTakenOver):
        show(first, *views(0, 5)[3:])
    assert show(second, *views(0, 5)[3:], first=3)[-1]["result"]["outcome"] == "enrolled"


def test_a_verification_goes_on_with_what_speaks_for_and_against(studio, office):
    office.enrol("Ana", *views(0, 3))
    info, token = studio.make("Ana", Kind.VERIFY)
    first = studio.sessions.open_stream(info.id, token)
    show(first, *(between(axis(0), axis(n), 0.2) for n in (1, 2)))
    second = studio.sessions.open_stream(info.id, token)  # the first was lost without a word
    assert second.greeting()["progress"]["good_frames"] == 2
    assert second.greeting()["frames"] == 10  # as many as it may have looked at
    photo = draw(views(0, 1)[0], salt=77)
    answers = [look(second, photo, number) for number in range(5)]
    assert reasons(answers) == [[], *[["too_similar"]] * 4]
    third = studio.sessions.open_stream(info.id, token)
    assert look(third, draw(views(0, 1)[0], salt=78))["reasons"] == ["too_similar"]  # the same one, encoded anew
    assert third.finish()["result"]["verified"] is False


def test_a_lost_connection_gets_no_more_frames_than_the_limit(studio):
    info, token = studio.make("Ana", max_frames=10)
    for _ in range(3):
        stream = studio.sessions.open_stream(info.id, token)
        looked = look(stream, draw())
    assert looked["frames"] == 10  # 8 and 2 were reserved before
    assert looked["result"]["reason"] == "too_few_frames"


def test_frames_that_change_nothing_ask_the_database_nothing(studio, statements):
    stream = studio.stream("Ana")
    show(stream, views(0, 1)[0])
    del statements[:]
    answers = [look(stream, draw(salt=number), number) for number in range(6)]
    assert reasons(answers) == [["no_face"]] * 6
    assert statements == []
    assert all(asked["background"] for asked in studio.camera.asked)
    domain = stream.reach.as_setting  # all of its sessions have one share of the pool
    assert {asked["client"] for asked in studio.camera.asked} == {f"sessions:{domain}"}


def test_a_frame_that_counts_costs_one_short_transaction(studio, office, statements):
    office.enrol("Ana", *views(0, 3))
    stream = studio.stream("Ana", Kind.VERIFY, min_frames=10)
    del statements[:]
    show(stream, *views(0, 7)[3:5])
    assert sum("SET LOCAL ROLE" in statement for statement in statements) == 2
    assert len(statements) <= 2 * 5


def test_what_cannot_be_served_is_dropped_and_none_of_the_limit(studio):
    stream = studio.stream("Ana")
    studio.camera.errors = [PoolBusy("busy")]
    dropped = look(stream, draw(axis(0)), 7)
    assert (dropped["dropped"], dropped["reasons"], dropped["frame"], dropped["frames"]) == (True, ["pool_busy"], 7, 0)
    assert stream.drop(8, "late")["reasons"] == ["late"]


def test_without_the_database_nothing_counts_and_the_next_frame_goes_on(studio, monkeypatch, office):
    stream = studio.stream("Ana", templates=1)
    with monkeypatch.context() as patched:
        patched.setattr(studio.database, "transaction", _away)
        assert look(stream, draw(axis(0)))["reasons"] == ["database_unavailable"]
        with pytest.raises(DatabaseUnavailable):
            stream.finish()
    assert look(stream, draw(axis(0)))["result"]["outcome"] == "enrolled"


def test_the_stream_is_for_the_token_and_the_key_that_made_it(studio, office):
    info, token = studio.make("Ana")
    for wrong in (None, "", token + "x", "fds_\udcff"):
        with pytest.raises(WrongSessionToken):
            studio.sessions.open_stream(info.id, wrong)
    for nothing in (uuid4(), "no id", ""):
        with pytest.raises(SessionNotFound):
            studio.sessions.open_stream(nothing, token)
    with pytest.raises(NotTheSessionsKey):
        studio.sessions.open_stream(info.id, token, str(uuid4()))
    assert studio.sessions.open_stream(info.id, token, "test").client == "test"


def test_it_is_opened_by_whoever_has_the_token_and_read_by_whoever_has_the_domain(studio):
    info, token = studio.make("Ana")
    with acting(Reach("key-other", frozenset({"others"}), frozenset({2}))):
        with pytest.raises(SessionNotFound):
            studio.sessions.read(info.id)
        with pytest.raises(SessionNotFound):
            studio.sessions.cancel(info.id)
    with acting(Reach("")):
        stream = studio.sessions.open_stream(info.id, token)
        assert show(stream, *views(0, 5))[-1]["result"]["outcome"] == "enrolled"


def test_after_its_time_it_takes_no_frames_and_forgets_those_it_had(studio):
    info, token = studio.make("Ana")
    stream = studio.sessions.open_stream(info.id, token)
    show(stream, *views(0, 2))
    assert _count(studio, "face_session_frames") == 2
    _execute(studio, "UPDATE face_sessions SET expires_at = now() - interval '1 second'")
    assert studio.sessions.read(info.id).state == "expired"
    with pytest.raises(SessionExpired):
        show(stream, *views(0, 5)[2:])
    with pytest.raises(SessionExpired):
        studio.sessions.open_stream(info.id, token)
    assert _count(studio, "face_session_frames") == 0


def test_sessions_that_nobody_comes_back_to_are_swept(studio):
    show(studio.stream("Ana"), *views(0, 2))
    ended = studio.stream("Eva")
    ended.cancel()
    assert studio.sessions.sweep() == 0
    _execute(studio, "UPDATE face_sessions SET expires_at = now() - interval '1 second' WHERE label = 'Ana'")
    _execute(studio, "UPDATE face_sessions SET finished_at = now() - interval '8 days' WHERE label = 'Eva'")
    assert studio.sessions.sweep() == 2
    assert (_count(studio, "face_session_frames"), _count(studio, "face_sessions")) == (0, 1)


def test_what_has_ended_is_over(studio):
    info, token = studio.make("Ana")
    stream = studio.sessions.open_stream(info.id, token)
    assert studio.sessions.cancel(info.id).state == "cancelled"
    assert studio.sessions.cancel(info.id).state == "cancelled"
    with pytest.raises(SessionEnded):
        show(stream, *views(0, 1))
    with pytest.raises(SessionEnded):
        studio.sessions.open_stream(info.id, token)


def test_a_key_that_is_revoked_ends_its_sessions_with_the_next_frame(studio):
    key = str(uuid4())
    with acting(Reach(key, frozenset({"people"}), frozenset({1}))):
        _execute(
            studio,
            "INSERT INTO api_keys (id, prefix, digest, name, scopes, domains, created_by)"
            f" VALUES ('{key}', 'a', sha256('x'), 'x', '{{enrol}}', '{{people,others}}', 'x')",
        )
        info, token = studio.make("Ana")
    stream = studio.sessions.open_stream(info.id, token)
    show(stream, *views(0, 1))
    _execute(studio, f"UPDATE api_keys SET revoked_at = now() WHERE id = '{key}'")
    studio.ended_keys.add(key)
    with pytest.raises(SessionKeyEnded):
        look(stream, draw())
    assert (studio.sessions.read(info.id).state, _count(studio, "face_session_frames")) == ("cancelled", 0)


def test_with_an_erased_person_their_sessions_are_gone(studio, office):
    office.enrol("Ana", *views(0, 3))
    enrolling, verifying = studio.stream("Ana"), studio.stream("Ana", Kind.VERIFY)
    future = studio.stream("Eva")
    show(future, *views(1, 3))
    office.persons.create("people", "Eva", None)
    assert office.erasure.erase("people", "Ana").counts["sessions"] == 2
    assert office.erasure.erase("people", "Eva").counts["sessions"] == 1
    for stream, person in ((enrolling, 0), (verifying, 0), (future, 1)):
        with pytest.raises(SessionNotFound):
            show(stream, *views(person, 7)[3:])
    assert _count(studio, "face_session_frames") == _count(studio, "persons") == 0


def test_nobody_comes_back_by_a_session_that_knows_them_by_their_external_id(studio, office):
    stream = studio.stream("A-17")
    show(stream, *views(0, 3))
    office.persons.create("people", "Ana", None, PersonDetails("A-17"))
    assert office.erasure.erase("people", "Ana").counts["sessions"] == 1
    with pytest.raises(SessionNotFound):
        show(stream, *views(0, 5)[3:], first=3)
    assert _count(studio, "persons") == _count(studio, "face_session_frames") == 0


def test_sessions_by_the_external_id_follow_whoever_is_merged_or_gets_another(studio, office):
    first, second = studio.stream("A-17"), studio.stream("A-18")
    office.persons.create("people", "Ana", None, PersonDetails("A-17"))
    office.persons.create("people", "Eva", None, PersonDetails("A-18"))
    office.persons.create("people", "Joanna", None, PersonDetails("A-1"))
    office.persons.update("people", "Ana", PersonChange(external_id=None))
    assert studio.sessions.read(first.id).label == "Ana"
    office.merging.merge("people", "Joanna", "Eva")
    assert studio.sessions.read(second.id).label == "Joanna"


def test_whoever_is_erased_while_their_session_is_made_is_not_found(studio, office, monkeypatch):
    office.enrol("Ana", axis(0))
    found = service.find_person_or_none

    def found_and_erased(*arguments):
        person = found(*arguments)
        office.erasure.erase("people", "Ana")
        return person

    monkeypatch.setattr(service, "find_person_or_none", found_and_erased)
    with pytest.raises(PersonNotFound):
        studio.make("Ana")


def test_what_is_held_of_a_session_is_exported_with_the_person(studio, office, database, database_settings):
    show(studio.stream("Ana"), *views(0, 2))
    office.persons.create("people", "Ana", None)
    target = io.BytesIO()
    PersonExport(database, ImageStore(database_settings.images_dir, enabled=False)).write("people", "Ana", target)
    (held,) = json.loads(zipfile.ZipFile(target).read("person.json"))["sessions"]
    assert (held["state"], [frame["frame"] for frame in held["frames"]]) == ("open", [1, 2])
    assert held["frames"][0]["embedding"] == views(0, 1)[0].tolist()


def test_sessions_follow_a_person_who_is_renamed_or_merged(studio, office):
    named, future = studio.stream("Ana"), studio.stream("Ana")
    office.persons.create("people", "Ana", None)
    office.persons.update("people", "Ana", PersonChange(label="Anna"))
    office.persons.create("people", "Joanna", None)
    office.merging.merge("people", "Joanna", "Anna")
    assert studio.sessions.read(named.id).label == "Joanna"
    assert show(future, *views(0, 5))[-1]["result"]["new_person"] is False
    assert [person.info.label for person in office.directory.list("people", limit=9).items] == ["Joanna"]


def test_what_was_rejected_for_the_person_speaks_against_them(studio, office):
    office.enrol("Ana", *views(0, 3))
    wrong = between(axis(0), axis(5), 0.8 * THRESHOLD)
    office.reject("Ana", draw(wrong, salt=9))
    answers = show(studio.stream("Ana", Kind.VERIFY, max_frames=1), wrong)
    assert (answers[-1]["reasons"], answers[-1]["result"]["verified"]) == (["another_person"], False)


def test_whoever_is_not_valid_now_is_not_verified(studio, office):
    office.enrol("Ana", *views(0, 3))
    stream = studio.stream("Ana", Kind.VERIFY)
    _execute(studio, "UPDATE persons SET valid_until = now() - interval '1 hour'")
    result = show(stream, *views(0, 5))[-1]["result"]
    assert (result["verified"], result["reason"]) == (False, "not_valid")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE persons SET valid_until = now() - interval '1 hour'", "not_valid"),
        ("DELETE FROM face_embeddings", "no_templates"),
        ("", None),
    ],
)
@pytest.mark.parametrize("end", ["finish", "frames"])
def test_what_is_true_of_the_person_at_the_end_decides(studio, office, change, reason, end):
    office.enrol("Ana", *views(0, 3))
    stream = studio.stream("Ana", Kind.VERIFY, max_frames=3)
    show(stream, *views(0, 7)[3:5])
    if change:
        _execute(studio, change)
    if end == "finish":
        result = stream.finish()["result"]
        assert (result["verified"], result["reason"]) == (False, reason or "too_few_frames")
    else:
        result = show(stream, views(0, 7)[5], first=5)[-1]["result"]
        assert (result["verified"], result["reason"]) == (reason is None, reason)


def test_a_face_that_is_rejected_meanwhile_speaks_against_the_frames_before_it(studio, office):
    office.enrol("Ana", axis(0))
    seen = [between(axis(0), axis(n), 0.01) for n in (1, 2, 3)]
    stream = studio.stream("Ana", Kind.VERIFY)
    show(stream, *seen[:2])
    office.reject("Ana", draw(between(axis(0), axis(1), 0.0101), salt=99))
    office.reject("Ana", draw(between(axis(0), axis(2), 0.0101), salt=99))
    answer = show(stream, seen[2], first=3)[-1]
    assert answer["progress"]["distance"] > 0.04
    assert stream.finish()["result"]["verified"] is False


def test_an_end_that_the_client_chooses_accepts_nobody(studio, office):
    """They see the mean: an end at the best moment would be a look at each."""
    office.enrol("Ana", axis(0))
    stream = studio.stream("Ana", Kind.VERIFY, min_frames=5)
    answers = show(stream, *(between(axis(0), axis(n), 0.01) for n in (1, 2, 3, 4)))
    assert answers[-1]["progress"]["distance"] < 0.02
    assert stream.finish()["result"]["reason"] == "too_few_frames"


def test_nobody_is_verified_who_has_no_faces(studio, office):
    with pytest.raises(PersonNotFound):
        studio.make("Ana", Kind.VERIFY)
    office.persons.create("people", "Ana", None)
    with pytest.raises(NoTemplates):
        studio.make("Ana", Kind.VERIFY)


def test_a_domain_has_so_many_open_sessions_at_most(studio, monkeypatch):
    monkeypatch.setattr("app.sessions.service.MAX_OPEN", 1)
    info, _ = studio.make("Ana")
    with pytest.raises(TooManySessions):
        studio.make("Eva")
    studio.sessions.cancel(info.id)
    studio.make("Eva")


def test_a_frame_waits_for_the_database_no_longer_than_it_is_of_use(studio, office, database):
    office.enrol("Ana", *views(0, 2))
    stream = studio.stream("Ana", Kind.VERIFY)
    with database.transaction() as session:
        session.execute(text("SELECT FROM face_sessions FOR UPDATE"))
        answer = stream.look(draw(views(0, 3)[2]), 0, deadline=Deadline.after(0.0))
    assert (answer["reasons"], answer["frames"]) == (["database_timeout"], 0)


def test_what_is_asked_in_time_waits_for_no_lock_longer_than_a_moment(studio, office, database, statements):
    """One domain's lock must not hold the threads that look at all others' frames."""
    office.enrol("Ana", *views(0, 2))
    stream = studio.stream("Ana", Kind.VERIFY)
    with database.transaction() as session:
        session.execute(text("SELECT FROM face_sessions FOR UPDATE"))
        del statements[:]
        answer = look(stream, draw(views(0, 3)[2]))
        assert answer["reasons"] == ["database_timeout"]
        for ask in (stream.finish, stream.cancel):
            with pytest.raises(DatabaseTimeout):
                ask(deadline=Deadline.after(0.0))
        stream.close(deadline=Deadline.after(0.0))
    begun = [statement for statement in statements if "SET LOCAL ROLE" in statement]
    assert len(begun) == 4
    assert all("lock_timeout" in statement for statement in begun)
    assert stream.finish(deadline=Deadline.after(20.0))["result"]["reason"] == "too_few_frames"


def test_pictures_of_kept_frames_are_read_at_the_end_alone(studio, office, database, statements):
    info, token = studio.make("Ana", templates=3)
    show(studio.sessions.open_stream(info.id, token), *views(0, 2))
    del statements[:]
    studio.sessions.open_stream(info.id, token)
    assert not any("face_session_frames.picture" in statement for statement in statements)


@pytest.mark.parametrize("token", ["right", "wrong"])
def test_whoever_is_not_let_in_disturbs_nobody(studio, token):
    info, right = studio.make("Ana")
    stream = studio.sessions.open_stream(info.id, right)

    def admit(*_of_whom):
        raise TooManyStreams("full")

    with pytest.raises((TooManyStreams, WrongSessionToken)):
        studio.sessions.open_stream(info.id, right if token == "right" else "fds_x", admit=admit)
    assert show(stream, *views(0, 5))[-1]["result"]["outcome"] == "enrolled"


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (Kind.ENROL, {"max_frames": 121}),
        (Kind.ENROL, {"max_frames": 0}),
        (Kind.ENROL, {"expires_in_s": 301}),
        (Kind.ENROL, {"templates": 3, "min_templates": 4}),
        (Kind.ENROL, {"false_match_rate": 0.01}),
        (Kind.VERIFY, {"templates": 3}),
        (Kind.VERIFY, {"false_match_rate": float("nan")}),
        (Kind.VERIFY, {"max_frames": 3, "min_frames": 4}),
    ],
)
def test_limits_that_cannot_be_are_refused_by_name(studio, kind, wanted):
    with pytest.raises(InvalidRequest, match=list(wanted)[-1]):
        studio.make("Ana", kind, **wanted)


@pytest.fixture
def statements(database):
    seen: list[str] = []

    def note(_connection, _cursor, statement, *_others):
        seen.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    yield seen
    event.remove(database.engine, "before_cursor_execute", note)


def _away(*_args, **_others):
    raise DatabaseUnavailable("away")


def _execute(studio, statement: str) -> None:
    with acting(everything("test")), studio.database.transaction() as session:
        session.execute(text(statement))


def _count(studio, table: str) -> int:
    with studio.database.transaction() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}"))

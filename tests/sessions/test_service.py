"""Sessions on a real database: enrolled, verified, resumed, ended."""

import io
import json
import zipfile
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import event, text

from app.enrolment.images import ImageStore
from app.enrolment.persons import PersonChange
from app.erasure.export import PersonExport
from app.errors import (
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
    WrongSessionToken,
)
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
    assert second.finish()["result"]["verified"] is False


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
    assert [person.label for person in office.persons.list("people", limit=9, cursor=None, contains=None).items] == [
        "Joanna"
    ]


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


def test_nobody_is_verified_who_has_no_faces(studio, office):
    with pytest.raises(PersonNotFound):
        studio.make("Ana", Kind.VERIFY)
    office.persons.create("people", "Ana", None)
    with pytest.raises(NoTemplates):
        studio.make("Ana", Kind.VERIFY)


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


def _away(*_args):
    raise DatabaseUnavailable("away")


def _execute(studio, statement: str) -> None:
    with acting(everything("test")), studio.database.transaction() as session:
        session.execute(text(statement))


def _count(studio, table: str) -> int:
    with studio.database.transaction() as session:
        return session.scalar(text(f"SELECT count(*) FROM {table}"))

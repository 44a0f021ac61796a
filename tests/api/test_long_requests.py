"""Requests of many pictures do not take all threads of the web, and no client takes all their places."""

import io
import random
import threading
from contextlib import ExitStack

import pytest

from app import create_app
from app.api.long_requests import LongRequests
from app.config import parse_settings
from app.errors import PoolBusy
from app.keys.admin_key import create_admin_key

BATCH = "/v1/embeddings/batch"
FACES = "/v1/domains/nowhere/persons/nobody/faces"


def taken(places: LongRequests, client: str, held: ExitStack) -> int:
    """How many more the client gets, all of which are held."""
    for got in range(1000):
        try:
            held.enter_context(places.place(client))
        except PoolBusy:
            return got
    raise AssertionError("there is no end to them")


@pytest.mark.parametrize(("threads", "alone", "then"), [(1, 1, 0), (7, 1, 0), (8, 1, 1), (42, 8, 1), (512, 96, 31)])
def test_one_client_gets_nearly_all_and_another_one_still_gets_in(threads, alone, then):
    places = LongRequests(threads)
    with ExitStack() as held:
        assert taken(places, "one", held) == alone
        assert taken(places, "two", held) == min(then, 1)
        others = sum(taken(places, f"client {number}", held) for number in range(200))
        assert alone + min(then, 1) + others == max(1, threads // 4)
    with ExitStack() as held:
        assert taken(places, "one", held) == alone


def test_places_come_back_from_many_threads():
    places, most, threads = LongRequests(16), 4, 12
    inside, seen, refused = [], [], []

    def client(number: int) -> None:
        chance = random.Random(number)
        for _ in range(300):
            try:
                with places.place(f"client {number % 3}"):
                    inside.append(number)
                    seen.append(len(inside))
                    inside.pop()
                    if chance.random() < 0.5:
                        raise KeyError
            except PoolBusy:
                refused.append(number)
            except KeyError:
                pass

    running = [threading.Thread(target=client, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert max(seen) <= most
    assert len(seen) + len(refused) == 300 * threads
    with ExitStack() as held:
        assert taken(places, "one", held) == most - 1
        assert taken(places, "two", held) == 1


class Unread:
    """A body that nobody may read."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"the body was read: {name}")


@pytest.fixture
def app(tmp_path):
    # One place, and neither a pool nor a database.
    settings = parse_settings(storage_dir=tmp_path, web_threads=4, vector_db_enabled=False)
    create_admin_key(settings.admin_key_file)
    return create_app(settings)


@pytest.fixture
def post(app):
    key = app.extensions["facedex"].settings.admin_key_file.read_text().strip()

    def send(path: str, **options):
        return app.test_client().post(path, headers={"x-api-key": key}, **options)

    return send


def files(count: int) -> dict:
    return {"data": {"file": [(io.BytesIO(b"no picture"), f"{number}.jpg") for number in range(count)]}}


@pytest.mark.parametrize("path", [BATCH, f"{BATCH}?stream=true", FACES])
def test_beyond_the_places_the_answer_comes_before_the_body_is_read(app, post, path):
    body = {
        "wsgi.input": Unread(),
        "CONTENT_TYPE": "multipart/form-data; boundary=x",
        "CONTENT_LENGTH": "100000000",
    }
    with app.extensions["facedex"].long_requests.place("somebody"):
        answer = post(path, environ_overrides=body)
    assert (answer.status_code, answer.get_json()["code"]) == (503, "pool_busy")
    assert "Retry-After" in answer.headers


def test_one_face_is_enrolled_without_a_place_and_several_need_one(app, post):
    with app.extensions["facedex"].long_requests.place("somebody"):
        told = [post(FACES, **files(count)).get_json()["code"] for count in (1, 2)]
    assert told == ["database_disabled", "pool_busy"]
    assert post(FACES, **files(2)).get_json()["code"] == "database_disabled"


@pytest.mark.parametrize("path", [BATCH, f"{BATCH}?vectors=perhaps", FACES])
def test_a_place_comes_back_however_the_request_ends(post, path):
    assert [post(path, **files(2)).get_json()["code"] for _ in range(3)].count("pool_busy") == 0


def test_a_stream_holds_its_place_until_it_ends_or_is_given_up(post):
    for read in (True, False):
        streamed = post(f"{BATCH}?stream=true", **files(3))
        assert streamed.status_code == 200
        assert post(BATCH, **files(1)).get_json()["code"] == "pool_busy"
        if read:
            assert streamed.get_data(as_text=True).count("embedder_unavailable") == 3
        streamed.close()
    assert post(BATCH, **files(1)).get_json()["code"] == "embedder_unavailable"

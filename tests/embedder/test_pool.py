"""The pool's one thread by itself: without workers, over its real socket."""

import select
import socket

import pytest

from app.config import Settings
from app.embedder.framing import encode, receive
from app.embedder.pool import Pool


@pytest.fixture
def settings(tmp_path):
    made = Settings(_env_file=None, storage_dir=tmp_path)
    made.run_dir.mkdir(parents=True)
    return made


def test_any_number_of_clients_leaves_the_pool_time_for_its_workers(settings):
    pool = Pool(settings, {"dlib": 1})
    pool._listen()
    clients = [socket.socket(socket.AF_UNIX) for _ in range(200)]
    try:
        for client in clients:
            client.connect(settings.embedder_address.removeprefix("unix:"))
            client.sendall(encode({"op": "status"}))
        answered = [0]
        while answered[-1] < len(clients):
            pool._turn()  # at the end of each, jobs are handed out, and after it workers are listened to
            answered.append(len(select.select(clients, [], [], 0)[0]))
            assert answered[-1] > answered[-2]
        assert answered[1] < len(clients) / 2
        assert all(receive(client)[1] for client in clients)
    finally:
        for end in (*clients, pool._listener, pool._wake_in, pool._wake_out):
            end.close()
        pool._selector.close()

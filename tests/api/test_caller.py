import socket

import pytest

from app.api.caller import hang_up_test
from tests.service.running import eventually


@pytest.fixture
def connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        with client, accepted:
            yield client, hang_up_test({"gunicorn.socket": accepted})


def test_a_client_that_waits_is_there_and_also_one_that_sends_more(connection):
    client, gone = connection
    assert not gone()
    client.sendall(b"GET / HTTP/1.1\r\n")
    assert not gone()


def test_a_client_that_closes_is_gone(connection):
    client, gone = connection
    client.close()
    eventually(gone)


def test_below_another_server_nobody_is_gone():
    assert not hang_up_test({})()

"""A DynamoDB to measure and test against: moto's, over real HTTP, that may be told to be slow and to throttle."""

import copy
import io
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

import boto3
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.table import Table
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

ACCOUNT = "123456789012"
REGION = "eu-central-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_SESSION_TOKEN": "a-token"}

Item = Mapping[str, Mapping[str, Any]]
Fault = Callable[[int, str], str | None]
"""Number of the query and its body → an error's code to answer with, or None."""


def no_fault(number: int, body: str) -> str | None:
    """Every query is answered."""
    return None


class DynamoServer:
    """Serves in a thread of its own between `__enter__` and `__exit__`; the tables are this process's.

    Attributes:
        fault: which queries are answered with an error.
        latency_s: before each query is answered.
        queries: so many were asked, those with an error too.
        most_at_once: so many have waited out the latency at the same time.
    """

    def __init__(self) -> None:
        self.fault: Fault = no_fault
        self.latency_s = 0.0
        self.queries = 0
        self.most_at_once = 0
        self._waiting = 0
        self._count_lock = threading.Lock()
        self._client: Any = None
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, name="dynamo-server")

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "DynamoServer":
        dynamodb_backends.reset()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        dynamodb_backends.reset()

    def client(self) -> Any:
        """A client of it, with made-up credentials."""
        return boto3.session.Session(
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        ).client("dynamodb", region_name=REGION, endpoint_url=self.endpoint)

    def make_tables(self, dates: str = "S") -> None:
        """The two tables, named as `app.edge.sources.dynamodb_items` does by default."""
        client = self._client = self._client or self.client()
        client.create_table(
            TableName="reservations",
            KeySchema=[{"AttributeName": "reservationCode", "KeyType": "HASH"}],
            AttributeDefinitions=[
                {"AttributeName": "reservationCode", "AttributeType": "S"},
                {"AttributeName": "status", "AttributeType": "S"},
                {"AttributeName": "checkOut", "AttributeType": dates},
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": "status-checkOut-index",
                    "KeySchema": [
                        {"AttributeName": "status", "KeyType": "HASH"},
                        {"AttributeName": "checkOut", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        client.create_table(
            TableName="members",
            KeySchema=[
                {"AttributeName": "reservationCode", "KeyType": "HASH"},
                {"AttributeName": "memberNo", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "reservationCode", "AttributeType": "S"},
                {"AttributeName": "memberNo", "AttributeType": "N"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        _table("members").__class__ = _QuickTable

    def empty(self) -> None:
        """Without any table."""
        dynamodb_backends.reset()

    def fill(self, table: str, items: Iterable[Item]) -> None:
        """Put items into a table, past HTTP, which takes long."""
        for item in items:
            _table(table).put_item(dict(item))

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = Request(environ)
        if not request.headers.get("X-Amz-Target", "").endswith(".Query"):
            return self._moto(environ, start_response)
        with self._count_lock:
            self.queries += 1
            self._waiting += 1
            self.most_at_once = max(self.most_at_once, self._waiting)
            number = self.queries
        if self.latency_s:
            time.sleep(self.latency_s)
        with self._count_lock:
            self._waiting -= 1
        body = request.get_data()
        code = self.fault(number, body.decode())
        if code is not None:
            answer = f'{{"__type": "com.amazonaws.dynamodb.v20120810#{code}", "message": "Made up."}}'
            return Response(answer, 400, content_type="application/x-amz-json-1.0")(environ, start_response)
        environ["wsgi.input"] = io.BytesIO(body)
        return self._moto(environ, start_response)


class _Quiet(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 -- werkzeug's name
        pass


class _QuickTable(Table):
    """moto sorts the whole table for each query; this one looks at the items of the hash key alone; it has no index."""

    def query(self, hash_key: Any, *rest: Any, **options: Any) -> Any:
        view = copy.copy(self)
        view.__class__ = Table
        view.items = {hash_key: self.items.get(hash_key, {})}
        return view.query(hash_key, *rest, **options)


def _table(name: str) -> Table:
    return dynamodb_backends[ACCOUNT][REGION].get_table(name)

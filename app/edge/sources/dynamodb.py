"""Members from DynamoDB: the reservations that are current, by an index of check-outs, and then their members, side by side."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)

from app.edge.errors import ConfigError, MalformedMembers, SourceRefused, SourceUnavailable
from app.edge.members import GalleryDelta, MemberTemplates
from app.edge.sources import Heard
from app.edge.sources.dynamodb_items import (
    Item,
    Malformed,
    MemberTable,
    RawMember,
    Reservation,
    ReservationTable,
    Span,
    decode,
    read_member,
    read_reservation,
)
from app.edge.timekeeping import parsed_date

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_dynamodb.type_defs import PaginatorConfigTypeDef

log = structlog.stdlib.get_logger("facedex.edge.dynamodb")

# What somebody has to change, rather than wait for.
_REFUSALS: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "OptInRequired",
        "ResourceNotFoundException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "ValidationException",
    }
)
_MISSING: Final = (
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
# Skipped items that are logged one by one; of the others there is the number.
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class DynamoSettings:
    """Where the tables are, and how they are read. Credentials are those that boto3 finds.

    Attributes:
        region, endpoint: of DynamoDB; None is what boto3's own settings say.
        threads: reservations whose members are read at once.
        attempts: how often one request is sent at most, with growing pauses between.
        timeout_s: for everything together.
        horizon_s: reservations that begin within that time are read too, so that nobody waits for a refresh at check-in.
        page_size: items in a page at most; None leaves it to DynamoDB (1 MB).
    """

    region: str | None = None
    endpoint: str | None = None
    reservations: ReservationTable = field(default_factory=ReservationTable)
    members: MemberTable = field(default_factory=MemberTable)
    threads: int = 16
    attempts: int = 8
    timeout_s: float = 300.0
    horizon_s: float = 86_400.0
    page_size: int | None = None


class DynamoSource:
    """All members of all reservations that are current or begin soon; DynamoDB has no versions, so it is always everything.

    One bad item costs nobody but itself; it is counted and logged. A page that cannot be read fails the whole: what would be
    missing is a member who is locked out.

    Args:
        contract: `EmbeddingContract.id` of the embeddings.
        dimension: of the embeddings.
        now: Unix seconds.
        heard: is told when an answer was made, as `TimeOfDay.told`.

    Raises:
        ConfigError: the settings name no time zone that this machine knows.
    """

    name = "dynamodb"

    def __init__(
        self,
        settings: DynamoSettings,
        contract: str,
        dimension: int,
        *,
        now: Callable[[], float] = time.time,
        heard: Heard = lambda date, asked_s, came_s: None,
    ) -> None:
        try:
            ZoneInfo(settings.reservations.time_zone)
        except (ValueError, KeyError, OSError):
            raise ConfigError(f"There is no time zone {settings.reservations.time_zone!r}.") from None
        self.settings = settings
        self.contract = contract
        self.dimension = dimension
        self._now = now
        self._heard = heard
        self._asked = threading.local()
        self._client: DynamoDBClient | None = None

    def fetch(self, since: str | None) -> GalleryDelta:
        """All members.

        Raises:
            SourceUnavailable: DynamoDB does not answer, is throttling for too long, or takes longer than `timeout_s`.
            SourceRefused: credentials, permissions, or names of tables and indexes are wrong.
            MalformedMembers: there are items, and not one of them can be used.
        """
        begin = time.monotonic()
        fetching = _Fetch(self._connected(), self.settings, self.contract, self.dimension, self._now())
        with ThreadPoolExecutor(self.settings.threads, thread_name_prefix="dynamodb") as pool:
            try:
                reservations = fetching.reservations(pool)
                raw = fetching.members(pool, reservations)
            except BaseException:
                # Who waits in the pool need not begin any more.
                fetching.over.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        given = tuple(fetching.decoded(raw))
        fetching.check_usable()
        log.info(
            f"Fetched {len(given)} members of {len(reservations)} reservations",
            pages=fetching.pages,
            skipped=dict(fetching.skipped),
            elapsed_s=round(time.monotonic() - begin, 3),
        )
        return GalleryDelta(self.contract, "", True, given)

    def _connected(self) -> "DynamoDBClient":
        """One client for all threads, which boto3 allows for clients (not for sessions and resources)."""
        if self._client is None:
            _keep_quiet()
            config = Config(
                connect_timeout=5,
                read_timeout=15,
                max_pool_connections=self.settings.threads,
                # Of botocore's ways, the one whose retries do not share a quota, which many threads spend within seconds.
                retries={"mode": "legacy", "total_max_attempts": self.settings.attempts},
            )
            with _typed("connect"):
                self._client = boto3.session.Session().client(
                    "dynamodb",
                    region_name=self.settings.region,
                    endpoint_url=self.settings.endpoint,
                    config=config,
                )
                events = self._client.meta.events
                events.register("before-call.dynamodb", self._begin)
                events.register("after-call.dynamodb", self._ended)
        return self._client

    def _begin(self, **_told: Any) -> None:
        """One of the threads asks."""
        self._asked.at_s = time.monotonic()

    def _ended(self, http_response: Any, **_told: Any) -> None:
        """It has its answer, which says when it was made."""
        if http_response.status_code == HTTPStatus.OK:
            date = parsed_date(http_response.headers.get("date"))
            if date is not None:
                self._heard(date, self._asked.at_s, time.monotonic())


class _Fetch:
    """One fetch: what it has counted, and when it is over."""

    def __init__(
        self, client: "DynamoDBClient", settings: DynamoSettings, contract: str, dimension: int, now: float
    ) -> None:
        self.over = threading.Event()
        self.skipped: Counter[str] = Counter()
        self.pages = 0
        self._settings = settings
        self._contract = contract
        self._dimension = dimension
        self._time = now
        self._used: Counter[str] = Counter()
        self._ends_at = time.monotonic() + settings.timeout_s
        self._count_lock = threading.Lock()
        self._pages_of = client.get_paginator("query")
        self._page_size: PaginatorConfigTypeDef = {"PageSize": settings.page_size} if settings.page_size else {}

    def reservations(self, pool: ThreadPoolExecutor) -> list[Reservation]:
        """Those that are current or begin soon, each once."""
        table, found = self._settings.reservations, dict[str, Reservation]()
        for items in pool.map(self._partition, table.partitions):
            for item in items:
                try:
                    reservation = read_reservation(item, table)
                except Malformed as error:
                    self._skip(table.table, error, item.get(table.code, {}).get("S"))
                    continue
                self._used[table.table] += 1
                if reservation.valid_until <= self._time or reservation.valid_from > self._horizon:
                    continue
                if found.setdefault(reservation.code, reservation) != reservation:
                    # It was changed while it was read, and stands in two places of the index: what both allow.
                    found[reservation.code] = _common(found[reservation.code], reservation)
        return list(found.values())

    def members(self, pool: ThreadPoolExecutor, reservations: Iterable[Reservation]) -> list[RawMember]:
        """Theirs, each once."""
        found: dict[str, RawMember] = {}
        for raws in pool.map(self._members_of, reservations):
            found |= {raw.member.key: raw for raw in raws}
        return list(found.values())

    def decoded(self, raw: list[RawMember]) -> Iterator[MemberTemplates]:
        """Those whose vectors can be used."""
        table = self._settings.members
        for given in decode(raw, self._dimension):
            if isinstance(given, RawMember):
                self._used[table.table] -= 1
                self._skip(table.table, Malformed(f"{table.embedding} is not finite"), given.member.key)
            else:
                yield given

    def check_usable(self) -> None:
        """
        Raises:
            MalformedMembers: nothing of what there is can be used, which is a wrong setting rather than a bad item.
        """
        for table in (self._settings.reservations.table, self._settings.members.table):
            bad = {reason: count for reason, count in self.skipped.items() if reason.startswith(f"{table}: ")}
            if bad and not self._used[table]:
                raise MalformedMembers(f"Not one of {sum(bad.values())} items can be used: {', '.join(bad)}.")

    @property
    def _horizon(self) -> float:
        return self._time + self._settings.horizon_s

    def _partition(self, value: str) -> list[Item]:
        """The items of one partition of the index. The date is part of the key condition: who has left is not read."""
        table = self._settings.reservations
        span = Span.of(table, self._time, self._settings.horizon_s)
        return self._query(
            table.table,
            IndexName=table.index,
            KeyConditionExpression="#partition = :partition AND #ends > :ends",
            # What is of another type is kept, to be counted as malformed.
            FilterExpression="NOT (attribute_type(#begins, :type) AND #begins > :begins)",
            ExpressionAttributeNames={
                "#partition": table.partition,
                "#ends": table.check_out,
                "#begins": table.check_in,
            },
            ExpressionAttributeValues={
                ":partition": {"S": value},
                ":ends": span.ends_after,
                ":begins": span.begins_before,
                ":type": {"S": next(iter(span.begins_before))},
            },
        )

    def _members_of(self, reservation: Reservation) -> list[RawMember]:
        table, found = self._settings.members, []
        items = self._query(
            table.table,
            KeyConditionExpression="#code = :code",
            ExpressionAttributeNames={"#code": table.code},
            ExpressionAttributeValues={":code": {"S": reservation.code}},
        )
        for item in items:
            try:
                found.append(read_member(item, reservation, table, self._contract, self._dimension))
            except Malformed as error:
                self._skip(table.table, error, reservation.code)
        with self._count_lock:
            self._used[table.table] += len(found)
        return found

    def _query(self, table: str, **asked: Any) -> list[Item]:
        """Every page of a query."""
        items: list[Item] = []
        with _typed(table):
            for page in self._pages_of.paginate(TableName=table, PaginationConfig=self._page_size, **asked):
                items += page["Items"]
                with self._count_lock:
                    self.pages += 1
                if self.over.is_set() or time.monotonic() >= self._ends_at:
                    raise SourceUnavailable(f"DynamoDB took longer than {self._settings.timeout_s:g} s.")
        return items

    def _skip(self, table: str, error: Malformed, key: object) -> None:
        with self._count_lock:
            self.skipped[f"{table}: {error}"] += 1
            count = self.skipped.total()
        if count <= _SHOWN:
            log.warning("Skipped an item that cannot be used", table=table, reason=str(error), key=key)


def _common(one: Reservation, other: Reservation) -> Reservation:
    return Reservation(
        one.code,
        max(one.valid_from, other.valid_from),
        min(one.valid_until, other.valid_until),
        one.locks & other.locks,
    )


@contextmanager
def _typed(where: str) -> Iterator[None]:
    """botocore's errors as ours. Their texts are left out: some quote the signed request, with the session's token."""
    try:
        yield
    except ClientError as error:
        found: Mapping[str, Any] = error.response.get("Error", {})
        code = found.get("Code", "unknown")
        kind = SourceRefused if code in _REFUSALS else SourceUnavailable
        raise kind(f"DynamoDB answered {code} ({where}).") from None
    except _MISSING as error:
        raise SourceRefused(f"DynamoDB cannot be asked: {type(error).__name__} ({where}).") from None
    except (BotoCoreError, ValueError) as error:
        kind = SourceRefused if isinstance(error, ValueError) else SourceUnavailable
        raise kind(f"DynamoDB cannot be reached: {type(error).__name__} ({where}).") from None


def _keep_quiet() -> None:
    """botocore's debug log holds signed requests."""
    for name in ("botocore", "boto3", "urllib3"):
        logger = logging.getLogger(name)
        if logger.getEffectiveLevel() < logging.INFO:
            logger.setLevel(logging.INFO)

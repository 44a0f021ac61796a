"""Members from DynamoDB: all, by the edge's source, beside the old way: one query after the other, the first page of each."""

import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

import click
import numpy as np
import structlog

from app.benchmark.timing import machine

_DIMENSION = 512
_CONTRACT = f"made-up:{_DIMENSION}:0000000000000000"
# Groups so large that their members fill more than one page of 1 MB.
_GROUPS = 8
_GROUP = 600


@click.command()
@click.option("--reservations", type=click.IntRange(min=100), default=10_000, show_default=True, help="Current ones.")
@click.option("--members", type=click.IntRange(min=10_000), default=50_000, show_default=True)
@click.option("--old-reservations", type=click.IntRange(min=0), default=2_000, show_default=True, help="That are over.")
@click.option("--throttled", type=click.FloatRange(0, 0.5), default=0.02, show_default=True, help="Share of queries.")
@click.option("--latency-ms", type=click.FloatRange(0, 1_000), default=5.0, show_default=True, help="Of each query.")
@click.option("--threads", type=click.IntRange(1, 256), default=16, show_default=True)
@click.option("--old-way/--no-old-way", default=True, show_default=True, help="It takes minutes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def dynamodb(
    reservations: int,
    members: int,
    old_reservations: int,
    throttled: float,
    latency_ms: float,
    threads: int,
    old_way: bool,
    as_json: bool,
) -> None:
    """Everybody from a DynamoDB with pages and throttling, against asking one by one; from moto's server, over HTTP.

    The server is one Python program beside it, with a latency that is added to each query; its own time counts in all ways, and
    bounds how much asking side by side can gain. Ratios tell about the ways, times nothing about AWS.
    """
    from scripts.benchmarks.dynamo_server import CREDENTIALS

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    os.environ.update(CREDENTIALS)
    with _served(reservations, members, old_reservations, throttled, latency_ms) as endpoint:
        rows = [_whole(endpoint, threads, f"every page, {threads} at once")]
        if old_way:
            rows += [_whole(endpoint, 1, "every page, one after the other"), _first_pages(endpoint)]
    for row in rows:
        row["missing"] = members - row["members"]
    if as_json:
        click.echo(json.dumps({"machine": machine(), "rows": rows}, indent=2))
        return
    click.echo(f"{reservations} reservations with {members} members, {_DIMENSION} numbers each")
    click.echo(f"{throttled:.0%} of queries throttled, {latency_ms:g} ms added to each")
    click.echo(f"{', '.join(f'{key}: {value}' for key, value in machine().items())}\n")
    click.echo(f"{'':<34} {'time':>9} {'ratio':>7} {'members':>9} {'missing':>9} {'per 1,000':>11}")
    for row in rows:
        ratio = row["seconds"] / rows[0]["seconds"]
        each = row["seconds"] / max(1, row["members"]) * 1_000
        counts = f"{row['members']:>9} {row['missing']:>9}"
        click.echo(f"{row['way']:<34} {row['seconds']:>7.1f} s {ratio:>6.1f}x {counts} {each:>9.2f} s")


def _whole(endpoint: str, threads: int, way: str) -> dict[str, Any]:
    from app.edge.sources.dynamodb import DynamoSettings, DynamoSource
    from scripts.benchmarks.dynamo_server import REGION

    settings = DynamoSettings(region=REGION, endpoint=endpoint, threads=threads, timeout_s=3_600)
    source = DynamoSource(settings, _CONTRACT, _DIMENSION)
    begin = perf_counter()
    delta = source.fetch(None)
    found = {given.member.key for given in delta.upserts if given.embeddings.shape == (1, _DIMENSION)}
    return {"way": way, "seconds": perf_counter() - begin, "members": len(found)}


def _first_pages(endpoint: str) -> dict[str, Any]:
    """As it was: one query after the other, the first page of each taken for everything, number by number."""
    import boto3

    from scripts.benchmarks.dynamo_server import REGION

    client = boto3.session.Session().client("dynamodb", region_name=REGION, endpoint_url=endpoint)
    begin = perf_counter()
    found: dict[str, list[float]] = {}
    now = datetime.now(UTC).isoformat()
    page = client.query(
        TableName="reservations",
        IndexName="status-checkOut-index",
        KeyConditionExpression="#status = :status AND checkOut > :now",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":status": {"S": "checked_in"}, ":now": {"S": now}},
    )
    for reservation in page["Items"]:
        code = reservation["reservationCode"]["S"]
        members = client.query(
            TableName="members",
            KeyConditionExpression="reservationCode = :code",
            ExpressionAttributeValues={":code": {"S": code}},
        )
        for member in members["Items"]:
            found[f"{code}-{member['memberNo']['N']}"] = np.frombuffer(member["embedding"]["B"], "<f4").tolist()
    return {"way": "first pages, one after the other", "seconds": perf_counter() - begin, "members": len(found)}


@contextmanager
def _served(
    reservations: int, members: int, old_reservations: int, throttled: float, latency_ms: float
) -> Iterator[str]:
    """A server in a process of its own, filled; its address."""
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    asked = (its, reservations, members, old_reservations, throttled, latency_ms)
    process = context.Process(target=_serve, args=asked, daemon=True)
    process.start()
    its.close()
    try:
        yield ours.recv()
    except EOFError:
        raise click.ClickException("The server did not start.") from None
    finally:
        ours.close()
        process.join()


def _serve(
    ours: Connection, reservations: int, members: int, old_reservations: int, throttled: float, latency_ms: float
) -> None:
    from scripts.benchmarks.dynamo_server import DynamoServer

    choice = np.random.default_rng(8)

    def fault(_number: int, _body: str) -> str | None:
        return "ProvisionedThroughputExceededException" if choice.random() < throttled else None

    with DynamoServer() as server:
        server.make_tables()
        server.fill("reservations", _reservations(reservations, old_reservations))
        server.fill("members", _members(reservations, members))
        server.latency_s = latency_ms / 1_000
        server.fault = fault
        ours.send(server.endpoint)
        try:
            ours.recv()  # until the other side hangs up
        except EOFError:
            return


def _reservations(current: int, over: int) -> Iterator[dict[str, Any]]:
    now = datetime.now(UTC)
    for number in range(current + over):
        ends = now + timedelta(days=1 + number % 5) if number < current else now - timedelta(days=3 + number % 300)
        yield {
            "reservationCode": {"S": f"R{number:06}"},
            "status": {"S": "checked_in"},
            "checkIn": {"S": (ends - timedelta(days=7)).isoformat()},
            "checkOut": {"S": ends.isoformat()},
            "locks": {"SS": [f"door-{number}", "pool", "gym"]},
            "notes": {"S": "Late arrival; two cots; the invoice goes to the travel agency. " * 3},
        }


def _members(reservations: int, members: int) -> Iterator[dict[str, Any]]:
    """Some large groups, the rest evenly."""
    rng = np.random.default_rng(2)
    rest = members - _GROUPS * _GROUP
    for number in range(reservations):
        evenly = number - _GROUPS
        small = rest * (evenly + 1) // (reservations - _GROUPS) - rest * evenly // (reservations - _GROUPS)
        for member in range(_GROUP if number < _GROUPS else small):
            yield {
                "reservationCode": {"S": f"R{number:06}"},
                "memberNo": {"N": str(member + 1)},
                "name": {"S": f"Guest {member}"},
                "embedding": {"B": rng.standard_normal(_DIMENSION, dtype=np.float32).astype("<f4").tobytes()},
            }

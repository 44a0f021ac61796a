from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.embedder.fair_queue import FairQueue, QueueFull


def anything(_item: object) -> bool:
    return True


def drained(queue: FairQueue) -> list:
    items = []
    while (item := queue.pop(anything)) is not None:
        items.append(item)
    return items


def filled(capacity: int, *entries: tuple[str, int]) -> FairQueue:
    queue: FairQueue = FairQueue(capacity)
    for client, number in entries:
        queue.push(client, (client, number))
    return queue


def test_one_client_is_served_in_order_of_arrival():
    assert drained(filled(9, ("a", 1), ("a", 2), ("a", 3))) == [("a", 1), ("a", 2), ("a", 3)]


def test_clients_are_served_in_turn():
    queue = filled(9, ("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2))
    assert drained(queue) == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)]


def test_who_comes_anew_waits_for_one_of_each_other_and_no_more():
    queue = filled(9, ("a", 1), ("a", 2), ("a", 3))
    assert queue.pop(anything) == ("a", 1)
    queue.push("b", ("b", 1))
    assert drained(queue) == [("a", 2), ("b", 1), ("a", 3)]


def test_a_full_queue_has_no_room_for_who_waits_for_most():
    queue = filled(3, ("a", 1), ("a", 2), ("b", 1))
    with pytest.raises(QueueFull):
        queue.push("a", ("a", 3))
    assert len(queue) == 3


def test_in_a_full_queue_the_newest_of_the_greediest_gives_way():
    queue = filled(4, ("a", 1), ("a", 2), ("a", 3), ("b", 1))
    assert queue.push("c", ("c", 1)) == ("a", 3)
    assert queue.push("d", ("d", 1)) == ("a", 2)
    with pytest.raises(QueueFull):  # everybody has one
        queue.push("e", ("e", 1))
    assert drained(queue) == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]


def test_what_had_its_place_before_goes_first_also_where_there_is_no_room():
    queue = filled(2, ("a", 1), ("b", 1))
    queue.push_first("b", ("b", 0))
    assert len(queue) == 3
    assert drained(queue) == [("b", 0), ("a", 1), ("b", 1)]


def test_what_may_not_go_holds_up_nobody_and_keeps_its_place():
    queue = filled(9, ("a", 1), ("a", 2), ("b", 1))
    assert queue.pop(lambda item: item != ("a", 1)) == ("a", 2)
    assert queue.pop(lambda item: item[0] == "nobody") is None
    assert drained(queue) == [("b", 1), ("a", 1)]


def test_what_is_discarded_is_gone_and_what_is_not_there_is_no_error():
    queue = filled(9, ("a", 1), ("a", 2), ("b", 1))
    queue.discard("a", ("a", 1))
    queue.discard("a", ("a", 1))
    queue.discard("nobody", ("x", 1))
    assert sorted(queue) == [("a", 2), ("b", 1)]
    assert len(queue) == 2


CLIENTS = st.sampled_from("abcde")
PUSHES = st.lists(CLIENTS, max_size=60)


@given(st.integers(1, 12), st.lists(st.one_of(CLIENTS, st.none()), max_size=80))
def test_nothing_is_lost_doubled_or_out_of_order_and_the_bound_holds(capacity, steps):
    """A client pushes; None: somebody is served."""
    queue: FairQueue = FairQueue(capacity)
    expected: dict[str, deque] = {client: deque() for client in "abcde"}
    for number, client in enumerate(steps):
        if client is None:
            item = queue.pop(anything)
            assert (item is None) == (not any(expected.values()))
            if item is not None:
                assert expected[item[0]].popleft() == item
            continue
        counts = {name: len(items) for name, items in expected.items()}
        full = sum(counts.values()) >= capacity
        try:
            evicted = queue.push(client, (client, number))
        except QueueFull:
            assert full
            assert max(counts.values()) <= counts[client] + 1
            continue
        assert (evicted is not None) == full
        if evicted is not None:
            assert counts[evicted[0]] == max(counts.values()) > counts[client] + 1
            assert expected[evicted[0]].pop() == evicted
        expected[client].append((client, number))
        assert len(queue) == sum(map(len, expected.values())) <= capacity
    assert Counter(queue) == Counter(item for items in expected.values() for item in items)


@given(PUSHES)
def test_nobody_is_served_twice_while_another_one_waits(clients):
    queue = filled(100, *((client, number) for number, client in enumerate(clients)))
    served = [client for client, _ in drained(queue)]
    left = Counter(clients)
    for at, client in enumerate(served):
        left[client] -= 1
        waiting = {other for other, count in left.items() if count > 0}
        if at + 1 < len(served) and waiting - {client}:
            assert served[at + 1] != client

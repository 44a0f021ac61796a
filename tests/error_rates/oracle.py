"""The same rates in the plainest way there is: one pair, one search, one threshold at a time, decided by `decide` itself."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from app.error_rates.comparing import Templates
from app.recognition.matching import Candidate, Decision, decide


@dataclass(frozen=True)
class Expected:
    fmr: tuple[int, int]
    fnmr: tuple[int, int]
    fpir: tuple[int, int]
    fnir: tuple[int, int]
    misnamed: int
    ambiguous: tuple[int, int]


def expected(templates: Templates, threshold: float, margin: float, *, rows: list[int] | None = None) -> Expected:
    """At one threshold; `rows` are the probes, all where they are not given."""
    distances = 1.0 - templates.vectors.astype(float) @ templates.vectors.astype(float).T
    owners = templates.owners.tolist()
    probes = range(len(owners)) if rows is None else rows
    pairs = {frozenset(pair) for one in probes for pair in combinations(range(len(owners)), 2) if one in pair}
    counted = Counter()
    for one, other in map(sorted, pairs):
        kind = "genuine" if owners[one] == owners[other] else "impostor"
        counted[kind] += 1
        counted[kind, bool(distances[one, other] <= threshold)] += 1

    def search(probe: int, without: set[int]) -> tuple[Decision, int | None]:
        nearest: dict[int, float] = {}
        for row, owner in enumerate(owners):
            if row != probe and owner not in without:
                nearest[owner] = min(nearest.get(owner, 9.0), distances[probe, row])
        ranked = sorted(nearest, key=nearest.__getitem__)
        candidates = [Candidate(None, str(owner), str(owner), nearest[owner], 1, None) for owner in ranked]
        return decide(candidates, threshold=threshold, margin=margin), ranked[0] if ranked else None

    for probe in probes:
        owner = owners[probe]
        if owners.count(owner) > 1:
            decision, named = search(probe, set())
            counted["enrolled"] += 1
            counted["right"] += decision is Decision.MATCH and named == owner
            counted["misnamed"] += decision is Decision.MATCH and named != owner
            counted["unclear"] += decision is Decision.AMBIGUOUS
        if set(owners) != {owner}:
            decision, _ = search(probe, {owner})
            counted["foreign"] += 1
            counted["named"] += decision is Decision.MATCH
            counted["unclear foreign"] += decision is Decision.AMBIGUOUS
    return Expected(
        fmr=(counted["impostor", True], counted["impostor"]),
        fnmr=(counted["genuine", False], counted["genuine"]),
        fpir=(counted["named"], counted["foreign"]),
        fnir=(counted["enrolled"] - counted["right"], counted["enrolled"]),
        misnamed=counted["misnamed"],
        ambiguous=(counted["unclear"], counted["unclear foreign"]),
    )

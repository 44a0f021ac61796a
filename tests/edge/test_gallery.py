"""The edge's gallery against a plain one that compares everything with everything."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from structlog.testing import capture_logs

from app.edge import rows as rows_module
from app.edge.errors import DuplicateMember, NotFinite, WrongContract, WrongDimension
from app.edge.gallery import Changes, Gallery
from app.edge.members import GalleryDelta, Member, MemberTemplates
from app.edge.rows import Rows
from app.edge.snapshot import Snapshot
from app.edge.sources.file import CacheFile
from tests.edge.making import CONTRACT, DIMENSION, delta, member, templates, vector

KEYS = [f"R{number}-1" for number in range(12)]
KEY = st.sampled_from(KEYS)
SEED = st.integers(0, 40)
NOW = st.sampled_from([0.0, 99.9, 100.0, 150.0, 199.999, 200.0, 300.0])
WINDOW = st.sampled_from([(None, None), (100.0, None), (None, 200.0), (100.0, 200.0)])


class Oracle:
    """What the gallery has to be like: a dictionary, and all cosines in float64."""

    def __init__(self) -> None:
        self.kept: dict[str, MemberTemplates] = {}

    def match(self, probe: np.ndarray, now: float) -> dict[str, float]:
        found = {}
        for key, given in self.kept.items():
            if given.member.is_valid(now):
                rows = given.embeddings.astype(np.float64)
                cosines = rows @ probe / (np.linalg.norm(rows, axis=1) * np.linalg.norm(probe))
                found[key] = float(cosines.max())
        return found


class GalleryMachine(RuleBasedStateMachine):
    """Any history of updates: after each one, every search agrees with the oracle's; old snapshots do not move."""

    @initialize(stored=st.sampled_from(["float32", "float16"]), codes=st.booleans())
    def start(self, stored, codes) -> None:
        self.gallery = Gallery(CONTRACT, DIMENSION, stored=stored, codes=codes)
        self.oracle = Oracle()
        self.tolerance = 2e-6 if stored == "float32" else 4e-3
        self.held: list[tuple[Snapshot, np.ndarray, list]] = []

    @rule(
        changes=st.lists(st.tuples(KEY, SEED, st.integers(1, 3), WINDOW), unique_by=lambda change: change[0]),
        removed=st.sets(KEY),
    )
    def apply(self, changes, removed) -> None:
        upserts = [templates(key, seed, count, *window) for key, seed, count, window in changes]
        before = dict(self.oracle.kept)
        new = {given.member.key for given in upserts}
        done = self.gallery.apply(delta(upserts, removed))
        for key in removed - new:
            self.oracle.kept.pop(key, None)
        self.oracle.kept.update({given.member.key: given for given in upserts})
        assert (done.added, done.removed) == (len(new - set(before)), len((removed - new) & set(before)))
        assert done.updated == sum(
            1 for given in upserts if given.member.key in before and not same(before[given.member.key], given)
        )

    @rule(wanted=st.lists(st.tuples(KEY, SEED, st.integers(1, 3), WINDOW), unique_by=lambda change: change[0]))
    def become(self, wanted) -> None:
        given = [templates(key, seed, count, *window) for key, seed, count, window in wanted]
        self.gallery.update(given)
        self.oracle.kept = {one.member.key: one for one in given}

    @rule(wrong=st.sampled_from(["dimension", "nan", "twice", "contract", "zero", "flat", "none"]), key=KEY)
    def refuse(self, wrong, key) -> None:
        before = self.gallery.snapshot
        with pytest.raises((WrongDimension, NotFinite, DuplicateMember, WrongContract)):
            self.gallery.apply(broken(wrong, key))
        assert self.gallery.snapshot is before

    @rule(probe=SEED, now=NOW)
    def hold(self, probe, now) -> None:
        snapshot = self.gallery.snapshot
        self.held.append((snapshot, vector(probe), snapshot.match(vector(probe), now=150.0)))
        del self.held[:-3]

    @rule(probe=SEED, now=NOW, top_k=st.integers(1, 15))
    def match(self, probe, now, top_k) -> None:
        expected = self.oracle.match(vector(probe), now)
        found = self.gallery.snapshot.match(vector(probe), now=now, top_k=top_k)
        assert len(found) == min(top_k, len(expected))
        assert [match.similarity for match in found] == sorted((match.similarity for match in found), reverse=True)
        assert len({match.member.key for match in found}) == len(found)
        for match, best in zip(found, sorted(expected.values(), reverse=True), strict=False):
            assert match.member == self.oracle.kept[match.member.key].member
            assert match.similarity == pytest.approx(expected[match.member.key], abs=self.tolerance)
            assert match.similarity == pytest.approx(best, abs=self.tolerance)

    @invariant()
    def holds_together(self) -> None:
        snapshot = self.gallery.snapshot
        assert len(snapshot) == len(self.oracle.kept)
        for key in KEYS:
            kept = self.oracle.kept.get(key)
            assert snapshot.member(key) == (kept.member if kept else None)
        for old, probe, matches in self.held:
            assert old.match(probe, now=150.0) == matches


def same(before: MemberTemplates, after: MemberTemplates) -> bool:
    return before.member == after.member and np.array_equal(before.embeddings, after.embeddings)


def broken(wrong: str, key: str) -> GalleryDelta:
    good = templates(key, 1)
    match wrong:
        case "dimension":
            return delta([good, MemberTemplates(member("other"), np.ones((1, DIMENSION + 1), np.float32))])
        case "nan":
            return delta([good, MemberTemplates(member("other"), np.full((1, DIMENSION), math.nan, np.float32))])
        case "zero":
            return delta([good, MemberTemplates(member("other"), np.zeros((1, DIMENSION), np.float32))])
        case "flat":
            return delta([MemberTemplates(member("other"), np.ones(DIMENSION, np.float32))])
        case "none":
            return delta([MemberTemplates(member("other"), np.ones((0, DIMENSION), np.float32))])
        case "twice":
            return delta([good, templates(key, 2)])
        case _:
            return GalleryDelta("another:8:model", "1", False, (good,))


TestGallery = GalleryMachine.TestCase
TestGallery.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_the_log_says_what_an_update_did() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    with capture_logs() as logs:
        gallery.update([templates("a", 1), templates("b", 2)])
        gallery.apply(delta([templates("c", 3), templates("d", 4)], ["a"]))
    assert [entry["event"] for entry in logs] == [
        "Built embeddings matrix: 2 members",
        "+2 added, -1 removed, 0 updated",
    ]


def test_a_member_matches_until_the_end_and_not_one_moment_longer() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates("a", 1, 1, 100.0, 200.0)])
    keys = {
        now: [match.member.key for match in gallery.snapshot.match(vector(1), now=now)]
        for now in (99.999, 100.0, 199.999, 200.0)
    }
    assert keys == {99.999: [], 100.0: ["a"], 199.999: ["a"], 200.0: []}


def test_a_longer_stay_is_an_update_without_new_templates() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates("a", 1, 1, None, 200.0)])
    assert gallery.update([templates("a", 1, 1, None, 900.0)]) == Changes(0, 0, 1)
    assert [match.member.key for match in gallery.snapshot.match(vector(1), now=500.0)] == ["a"]


def test_what_was_removed_is_wiped_once_nobody_reads_it() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates("a", 1), templates("b", 2)])
    held = gallery.snapshot
    gallery.apply(delta([], ["a"]))
    assert held.match(vector(1), now=0.0)[0].member.key == "a"
    ((row,),) = [rows for member, rows in held.members() if member.key == "a"]
    matrix = held.columns.matrix
    assert np.any(matrix[row])
    del held
    gallery.apply(delta([]))
    assert not np.any(matrix[row])


def test_what_was_removed_is_wiped_where_everything_was_moved_away_from_too() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates(f"m{number}", number) for number in range(200)])
    held = gallery.snapshot
    matrix, codes = held.columns.matrix, held.columns.codes
    gallery.apply(delta([templates(f"n{number}", number + 500) for number in range(300)], ["m7"]))
    assert gallery.snapshot.columns.matrix.base is not matrix.base
    gallery.apply(delta([]))
    assert held.match(vector(7), now=0.0)[0].member.key == "m7"
    del held
    gallery.apply(delta([]))
    assert not matrix[7].any()
    assert not codes[7].any()
    assert matrix[8].any()


def test_a_batch_is_answered_like_one_probe_after_the_other() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates(f"m{number}", number) for number in range(300)])
    probes = np.stack([vector(number) for number in range(250, 350)])
    one_by_one = [gallery.snapshot.match(probe, now=0.0) for probe in probes]
    for several, one in zip(gallery.snapshot.match_batch(probes, now=0.0), one_by_one, strict=True):
        assert [match.member.key for match in several] == [match.member.key for match in one]
    assert gallery.snapshot.match_batch(np.empty((0, DIMENSION)), now=0.0) == []


@pytest.mark.parametrize(
    "probe", [np.ones(DIMENSION - 1), np.full(DIMENSION, np.inf), np.zeros(DIMENSION), np.array(["x"] * DIMENSION)]
)
def test_a_broken_probe_is_refused(probe) -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates("a", 1)])
    with pytest.raises((WrongDimension, NotFinite)):
        gallery.snapshot.match(probe, now=0.0)


def test_codes_and_the_exact_product_name_the_same_first_among_near_twins() -> None:
    """Near-orthogonal strangers and clusters of twins, whose products differ by less than what 8 bits round off."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((40, 128))
    rows = np.repeat(centres, 50, axis=0) + 0.02 * rng.standard_normal((2_000, 128))
    given = [
        MemberTemplates(Member(f"m{number}", "x"), row[None].astype(np.float32)) for number, row in enumerate(rows)
    ]
    exact, coded = Gallery(CONTRACT, 128, codes=False), Gallery(CONTRACT, 128)
    for gallery in (exact, coded):
        gallery.update(given)
    probes = np.concatenate([rows[::9] + 0.01 * rng.standard_normal(rows[::9].shape), rng.standard_normal((200, 128))])
    for left, right in zip(
        exact.snapshot.match_batch(probes, now=0), coded.snapshot.match_batch(probes, now=0), strict=True
    ):
        assert abs(left[0].similarity - right[0].similarity) < 2e-6
        assert left[0].member == right[0].member or abs(left[0].similarity - left[1].similarity) < 2e-6


def test_memory_grows_by_copying_once_and_keeps_everybody() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    for start in range(0, 3_000, 500):
        gallery.apply(delta([templates(f"m{number}", number) for number in range(start, start + 500)]))
        gallery.apply(delta([], [f"m{number}" for number in range(start, start + 100)]))
    snapshot = gallery.snapshot
    assert len(snapshot) == 2_400
    for number in range(3_000):
        (best,) = snapshot.match(vector(number), now=0.0, top_k=1)
        assert (best.member.key == f"m{number}") == (number % 500 >= 100)


@pytest.mark.parametrize(
    ("owner", "call"),
    [(Rows, "moved"), (rows_module, "encode"), (Rows, "bear"), (Gallery, "_seen"), (Gallery, "_entries")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_memory_is_short_the_update_is_as_if_never_asked_for(
    monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    """Nobody may stay findable of whom the writer knows no more."""
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates(f"m{number}", number) for number in range(200)])
    before, change = gallery.snapshot, delta([templates(f"n{number}", number + 500) for number in range(300)], ["m7"])

    def fail(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(owner, call, fail)
        with pytest.raises(MemoryError):
            gallery.apply(change)
    assert gallery.snapshot is before
    assert before.match(vector(7), now=0.0)[0].member.key == "m7"
    assert gallery.apply(change) == Changes(300, 1, 0)
    assert "m7" not in {match.member.key for match in gallery.snapshot.match(vector(7), now=0.0, top_k=500)}
    assert gallery.snapshot.match(vector(799), now=0.0)[0].member.key == "n299"


def test_rows_of_an_update_that_failed_are_wiped_and_used_again() -> None:
    rows = Rows(DIMENSION, "float32", codes=False)
    units = np.ones((10, DIMENSION), np.float32)
    lengths = np.ones(10, np.float32)
    with pytest.raises(ValueError, match="broadcast"):
        rows.write_all([(units, lengths), (np.ones((5, DIMENSION + 1), np.float32), lengths[:5])])
    assert not rows.columns.matrix.any()
    rows.write_all([(units, lengths), (units[:5], lengths[:5])])
    assert (rows.used, int(rows.columns.matrix.any(axis=1).sum())) == (15, 15)


def test_an_update_leaves_the_templates_where_they_are() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates(f"m{number}", number) for number in range(50)])
    before = gallery.snapshot
    gallery.apply(delta([templates("m3", 900), templates("new", 901)], ["m7"]))
    for mine, its in zip(before.columns.all, gallery.snapshot.columns.all, strict=True):
        assert np.shares_memory(mine, its)


def test_an_old_snapshot_knows_whom_it_knew_until_nobody_has_it() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    gallery.update([templates("a", 1, 1, None, 200.0), templates("b", 2)])
    held = gallery.snapshot
    gallery.apply(delta([templates("a", 1, 1, None, 900.0), templates("c", 3)], ["b"]))
    gallery.apply(delta([templates("b", 4)]))
    gallery.apply(delta([], ["b"]))
    assert held.member("a") == member("a", None, 200.0)
    assert held.member("b") == member("b")
    assert held.member("c") is None
    assert (gallery.snapshot.member("a"), gallery.snapshot.member("b")) == (member("a", None, 900.0), None)
    del held
    gallery.apply(delta([]))
    assert set(gallery.snapshot.index) == {"a", "c"}
    assert all(entry.before is None for entry in gallery.snapshot.index.values())


@pytest.mark.parametrize("codes", [True, False], ids=["codes", "exact"])
def test_who_counts_no_more_hides_nobody_however_alike(codes: bool) -> None:
    """Hundreds who look like the probe have left or are not valid; those who count come after them all."""
    gallery = Gallery(CONTRACT, DIMENSION, codes=codes)
    probe = vector(1)
    twins = [
        MemberTemplates(member(f"t{number}", None, 100.0), probe[None] + 0.001 * vector(number))
        for number in range(600)
    ]
    others = [templates(f"m{number}", number + 5_000) for number in range(4_000)]
    gallery.update([*twins, *others])
    held = gallery.snapshot
    gallery.apply(delta([], [f"t{number}" for number in range(300)]))
    rows = np.concatenate([one.embeddings for one in others])
    cosines = rows @ probe / (np.linalg.norm(rows, axis=1) * np.linalg.norm(probe))
    expected = [f"m{number}" for number in np.argsort(-cosines)[:5]]
    assert [match.member.key for match in gallery.snapshot.match(probe, now=100.0)] == expected
    assert {match.member.key[0] for match in gallery.snapshot.match(probe, now=0.0, top_k=300)} == {"t"}
    assert len(held.match(probe, now=0.0, top_k=600)) == 600


def test_after_most_have_left_a_search_goes_through_few_rows() -> None:
    gallery = Gallery(CONTRACT, DIMENSION)
    everybody = [templates(f"m{number}", number) for number in range(25_000)]
    gallery.update(everybody)
    held = gallery.snapshot
    assert gallery.update(everybody[:40]) == Changes(0, 24_960, 0)
    assert len(gallery.snapshot.columns.matrix) == 40
    assert gallery.snapshot.match(vector(39), now=0.0)[0].member.key == "m39"
    assert held.match(vector(24_999), now=0.0)[0].member.key == "m24999"


@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_who_comes_from_the_source_as_they_came_from_the_file_has_not_changed(tmp_path: Path, stored) -> None:
    everybody = [templates(f"m{number}", number, 1 + number % 3) for number in range(500)]
    before, after = (Gallery(CONTRACT, DIMENSION, stored=stored) for _ in range(2))
    before.update(everybody)
    file = CacheFile(tmp_path / "members", source="x", contract=CONTRACT, dimension=DIMENSION, max_age_s=9.0)
    file.save(before.snapshot, "1", 100.0)
    after.apply(file.load(100.0)[0])
    assert after.update(everybody) == Changes()
    nudged = MemberTemplates(everybody[0].member, everybody[0].embeddings + np.float32(0.02))
    assert after.update([nudged, *everybody[1:]]) == Changes(updated=1)

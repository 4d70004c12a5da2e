"""The order of an epoch: its promises, checked on random datasets and at full size."""

import time
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.plan import Plan, visit_batches

Pairs = list[tuple[int, int]]
QUICK = settings(max_examples=150, deadline=None)
MANY_SECONDS = 5.0


class Case(NamedTuple):
    """A random dataset, as chunks per clip per shard, and how it is to be read."""

    shards: list[list[int]]
    batch: int
    window: int
    seed: int

    @property
    def chunks(self) -> set[tuple[int, int]]:
        """Every (row, chunk) of the dataset, counted in plain Python."""
        clips = [count for shard in self.shards for count in shard]
        return {(row, chunk) for row, n in enumerate(clips) for chunk in range(n)}

    def plan(self) -> Plan:
        return Plan(
            num_chunks=np.array([n for shard in self.shards for n in shard]),
            clips_per_shard=np.array([len(shard) for shard in self.shards]),
            global_batch_size=self.batch,
            seed=self.seed,
            window_shards=self.window,
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One to eight uneven shards, clips of one to five chunks, batches up to 12."""
    shard = st.lists(st.integers(1, 5), min_size=1, max_size=12)
    shards = draw(st.lists(shard, min_size=1, max_size=8))
    total = sum(map(sum, shards))
    batch = draw(st.sampled_from([b for b in (1, 2, 3, 4, 6, 8, 12) if b <= total]))
    return Case(shards, batch, draw(st.integers(1, 4)), draw(st.integers(0, 2**32)))


def batches(plan: Plan, epoch: int, *, start: int = 0, world: int = 1) -> list[Pairs]:
    """The global batches from ``start``: the shares of all ranks put side by side."""
    ranks = [
        [
            list(zip(rows.tolist(), chunks.tolist(), strict=True))
            for rows, chunks in plan.steps(
                epoch, start=start, rank=rank, world_size=world
            )
        ]
        for rank in range(world)
    ]
    return [sum(shares, []) for shares in zip(*ranks, strict=True)]


def even_plan(*, num_clips: int, per_shard: int, batch: int, seed: int = 0) -> Plan:
    sizes = [min(per_shard, num_clips - n) for n in range(0, num_clips, per_shard)]
    return Plan(np.ones(num_clips, int), np.array(sizes), batch, seed)


@QUICK
@given(cases(), st.integers(0, 50))
def test_an_epoch_uses_every_chunk_once_but_for_less_than_a_batch(
    case: Case, epoch: int
) -> None:
    """Else a student never hears some audio, or hears other audio twice."""
    steps = batches(case.plan(), epoch)
    used = [pair for step in steps for pair in step]
    assert all(len(step) == case.batch for step in steps)
    assert len(set(used)) == len(used)
    assert set(used) <= case.chunks
    assert 0 <= len(case.chunks) - len(used) < case.batch


@QUICK
@given(cases(), st.integers(0, 50))
def test_every_rank_has_the_same_number_of_steps(case: Case, epoch: int) -> None:
    """Else a job hangs in its last collective, hours into a run."""
    plan, expected = case.plan(), len(case.chunks) // case.batch
    assert plan.num_steps == expected
    for rank in range(case.batch):
        steps = plan.steps(epoch, rank=rank, world_size=case.batch)
        assert sum(1 for _ in steps) == expected


@QUICK
@given(cases(), st.integers(0, 50))
def test_the_global_batches_are_the_same_for_every_world_size(
    case: Case, epoch: int
) -> None:
    """Else a result of 8 GPUs cannot be reproduced on 2."""
    plan = case.plan()
    alone = batches(plan, epoch)
    for world in range(2, case.batch + 1):
        if case.batch % world == 0:
            assert batches(plan, epoch, world=world) == alone


@QUICK
@given(cases(), st.integers(0, 50), st.data())
def test_a_resumed_epoch_is_the_tail_of_the_whole_one(
    case: Case, epoch: int, data: st.DataObject
) -> None:
    """Else a requeued job repeats or skips audio after its checkpoint."""
    plan = case.plan()
    start = data.draw(st.integers(0, plan.num_steps))
    whole = batches(plan, epoch)
    assert batches(plan, epoch, start=start, world=case.batch) == whole[start:]


@QUICK
@given(cases())
def test_the_same_seed_gives_the_same_order(case: Case) -> None:
    """Else no run can be repeated."""
    assert batches(case.plan(), 3) == batches(case.plan(), 3)


@pytest.mark.parametrize("num_shards", [1, 2, 10])
def test_epochs_and_seeds_have_orders_of_their_own(num_shards: int) -> None:
    """Else every epoch shows the student the same batches."""
    orders = [
        batches(
            even_plan(num_clips=120, per_shard=120 // num_shards, batch=4, seed=s), e
        )
        for s in range(3)
        for e in range(4)
    ]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])


def test_other_chunks_are_left_over_each_epoch() -> None:
    """Else the last clips of a dataset are never trained on."""
    plan = even_plan(num_clips=103, per_shard=25, batch=10)
    everything = {(row, 0) for row in range(103)}
    left = [everything - set(sum(batches(plan, e), [])) for e in range(300)]
    assert {len(chunks) for chunks in left} == {3}
    assert len({frozenset(chunks) for chunks in left[:20]}) > 15
    assert set.union(*left) == everything


def test_a_single_stream_is_shuffled() -> None:
    """Else a small dataset in one shard is read in the order of its CSV."""
    order = [
        step[0][0]
        for step in batches(even_plan(num_clips=1000, per_shard=1000, batch=1), 0)
    ]
    rises = sum(a < b for a, b in zip(order, order[1:], strict=False))
    assert 400 < rises < 600


def test_streams_and_windows_are_shuffled_each_in_its_own_way() -> None:
    """Else the clips of a batch are the same distance apart in every epoch."""
    plan = Plan(np.ones(800, int), np.full(32, 25), 8, 0, window_shards=1)
    rows = np.array([[row for row, _ in step] for step in batches(plan, 0)])
    assert rows.shape == (100, 8)
    windows = [window for stream in rows.T for window in np.split(stream, 4)]
    assert len({tuple(np.argsort(window).tolist()) for window in windows}) == 32


def test_shards_meet_in_other_company_each_epoch() -> None:
    """Else neighbouring shards always share a window, and batches look alike.

    Half of 10 shards that only move round can be chosen in 20 ways.
    """
    plan = even_plan(num_clips=200, per_shard=20, batch=2)
    halves = {
        frozenset(step[0][0] // 20 for step in batches(plan, epoch))
        for epoch in range(60)
    }
    assert len(halves) > 20


@QUICK
@given(cases(), st.integers(0, 50))
def test_a_stream_and_each_of_its_windows_touch_few_shards(
    case: Case, epoch: int
) -> None:
    """Else every rank maps every tar, and a network disk is read at random.

    n chunks in a row touch k shards of at least m chunks only if the k - 2 in the
    middle fit between the two ends: (k - 2) m + 2 <= n.
    """
    plan, steps = case.plan(), batches(case.plan(), epoch)
    shard_of = [number for number, shard in enumerate(case.shards) for _ in shard]
    smallest = min(map(sum, case.shards))
    mean = -(-len(case.chunks) // len(case.shards))
    window = min(len(steps), mean * case.window)
    assert plan.window_steps == window
    for length in (len(steps), window):
        for start in range(0, len(steps), length):
            part = steps[start : start + length]
            for stream in zip(*part, strict=True):
                touched = {shard_of[row] for row, _ in stream}
                assert len(touched) <= (len(part) - 2) // smallest + 2


@QUICK
@given(cases(), st.integers(0, 50))
def test_a_shard_is_read_by_few_streams(case: Case, epoch: int) -> None:
    """Else many ranks fetch the same tar.

    The same count the other way round: L chunks touch k streams of n steps only if
    (k - 2) n + 2 <= L, so a shard no longer than a stream is read by at most two.
    """
    steps = batches(case.plan(), epoch)
    shard_of = [number for number, shard in enumerate(case.shards) for _ in shard]
    readers: dict[int, set[int]] = {}
    for step in steps:
        for stream, (row, _) in enumerate(step):
            readers.setdefault(shard_of[row], set()).add(stream)
    for shard, streams in readers.items():
        assert len(streams) <= (sum(case.shards[shard]) - 2) // len(steps) + 2


def test_a_batch_that_ranks_cannot_share_is_refused_with_both_numbers() -> None:
    """Else ranks get unequal shares and the user must guess why."""
    plan = even_plan(num_clips=100, per_shard=10, batch=32)
    with pytest.raises(ValueError, match=r"32 .*\b5 processes.*multiple of 5"):
        next(plan.steps(0, rank=0, world_size=5))


def test_fewer_chunks_than_a_batch_are_refused_with_both_numbers() -> None:
    """Else an epoch has no step and training ends at once, untrained."""
    with pytest.raises(ValueError, match="31 chunks .* 32; lower global_batch_size"):
        even_plan(num_clips=31, per_shard=10, batch=32)


def test_shards_that_do_not_sum_to_the_clips_are_refused() -> None:
    """Else rows of one index are looked up in the tars of another."""
    with pytest.raises(ValueError, match="clips_per_shard"):
        Plan(np.ones(10, int), np.array([5, 4]), 2, 0)


def test_the_fingerprint_tells_apart_whatever_changes_the_order() -> None:
    """Else a run resumes at the right step of the wrong order."""
    counts, shards = np.array([1, 2, 3, 4]), np.array([2, 2])
    plans = [
        Plan(counts, shards, 2, 0),
        Plan(counts, shards, 5, 0),
        Plan(counts, shards, 2, 1),
        Plan(counts, shards, 2, 0, window_shards=1),
        Plan(counts[::-1].copy(), shards, 2, 0),
    ]
    prints = [plan.fingerprint("data") for plan in plans]
    prints.append(plans[0].fingerprint("other data"))
    assert len(set(prints)) == 6
    assert Plan(counts.copy(), shards, 2, 0).fingerprint("data") == prints[0]


@QUICK
@given(
    st.lists(st.sampled_from([16000, 32000, 160000]), max_size=60),
    st.integers(1, 9),
    st.integers(1, 7),
)
def test_validation_visits_each_clip_once_in_batches_of_one_length(
    lengths: list[int], batch_size: int, world: int
) -> None:
    """Else a score counts a clip twice, misses one, or depends on its neighbours.

    And no more batches than needed, else validation takes as long as training.
    """

    def visit(world: int) -> list[list[int]]:
        ranks = [
            visit_batches(np.array(lengths), batch_size, rank=r, world_size=world)
            for r in range(world)
        ]
        return [batch.tolist() for rank in ranks for batch in rank]

    found = visit(world)
    assert sorted(sum(found, [])) == list(range(len(lengths)))
    assert all(len({lengths[row] for row in batch}) == 1 for batch in found)
    assert all(1 <= len(batch) <= batch_size for batch in found)
    assert sorted(found) == sorted(visit(1))
    full = sum(-(-lengths.count(length) // batch_size) for length in set(lengths))
    assert len(found) == full


@pytest.fixture(scope="module")
def audioset() -> Plan:
    """Full AudioSet as 2-s chunks: 4168 shards of 500 clips and one of 320."""
    sizes = np.full(4169, 500)
    sizes[-1] = 320
    return Plan(np.full(2_084_320, 5), sizes, 512, 7)


@pytest.mark.parametrize("start", [0, 20_350])
def test_full_audioset_starts_and_resumes_within_seconds(
    audioset: Plan, start: int
) -> None:
    """Else 64 ranks wait for minutes at every epoch and every requeue."""
    begin = time.monotonic()
    steps = audioset.steps(2, start=start, rank=3, world_size=64)
    rows, chunks = next(steps)
    assert time.monotonic() - begin < MANY_SECONDS
    assert rows.shape == chunks.shape == (8,)
    assert 0 <= rows.min() and rows.max() < 2_084_320
    assert 0 <= chunks.min() and chunks.max() < 5


def test_full_audioset_has_the_steps_that_division_gives(audioset: Plan) -> None:
    """Else schedules, which count steps, end early or late."""
    assert audioset.num_steps == 20_354  # 10,421,600 chunks = 20,354 x 512 + 352
    tail = list(audioset.steps(0, start=20_350, rank=63, world_size=64))
    assert len(tail) == 4

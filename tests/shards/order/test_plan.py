"""The order of an epoch: its promises, checked on random datasets and at full size."""

import hashlib
import itertools
import json
import math
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.order.copies import draw_copies
from shards.order.plan import Plan, visit_batches

Pairs = list[tuple[int, int]]
QUICK = settings(max_examples=150, deadline=None)


class Case(NamedTuple):
    """A random dataset, as chunks per clip per shard, and how it is to be read."""

    shards: list[list[int]]
    batch: int
    window: int
    seed: int
    weights: list[float] | None = None

    @property
    def num_steps(self) -> int:
        """Expected chunks over the batch, in exact arithmetic."""
        clips = [count for shard in self.shards for count in shard]
        weights = map(Fraction, self.weights or [1.0] * len(clips))
        total = sum(n * w for n, w in zip(clips, weights, strict=True))
        return int(total + Fraction(1, 2)) // self.batch

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
            weights=None if self.weights is None else np.array(self.weights),
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One to eight uneven shards, clips of one to five chunks, batches up to 12."""
    shard = st.lists(st.integers(1, 5), min_size=1, max_size=12)
    shards = draw(st.lists(shard, min_size=1, max_size=8))
    total = sum(map(sum, shards))
    batch = draw(st.sampled_from([b for b in (1, 2, 3, 4, 6, 8, 12) if b <= total]))
    return Case(shards, batch, draw(st.integers(1, 4)), draw(st.integers(0, 2**32)))


@st.composite
def weighted_cases(draw: st.DrawFn, *, whole: bool = False) -> Case:
    """The same with weights in halves or quarters, or whole ones; some shards often."""
    case = draw(cases())
    weights: list[float] = []
    for shard in case.shards:
        times = draw(st.sampled_from([1, 1, 1, 7]))
        choices = [0, 1, 2, 5] if whole else [0, 0.25, 0.5, 1, 1, 2.5, 4]
        size = len(shard)
        drawn = draw(st.lists(st.sampled_from(choices), min_size=size, max_size=size))
        weights += [times * weight for weight in drawn]
    weights[0] += 1  # at least one clip
    case = case._replace(weights=weights)
    sizes = [b for b in (1, 2, 3, 4, 6, 8, 12) if case._replace(batch=b).num_steps]
    return case._replace(batch=draw(st.sampled_from(sizes)))


any_cases = st.one_of(cases(), weighted_cases())


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
@given(any_cases, st.integers(0, 50))
def test_every_rank_has_the_same_number_of_steps(case: Case, epoch: int) -> None:
    """Else a job hangs in its last collective, hours into a run."""
    plan, expected = case.plan(), case.num_steps
    assert plan.num_steps == expected
    for rank in range(case.batch):
        steps = plan.steps(epoch, rank=rank, world_size=case.batch)
        assert sum(1 for _ in steps) == expected


@QUICK
@given(any_cases, st.integers(0, 50))
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
@given(any_cases, st.integers(0, 50), st.data())
def test_a_resumed_epoch_is_the_tail_of_the_whole_one(
    case: Case, epoch: int, data: st.DataObject
) -> None:
    """Else a requeued job repeats or skips audio after its checkpoint."""
    plan = case.plan()
    start = data.draw(st.integers(0, plan.num_steps))
    whole = batches(plan, epoch)
    assert batches(plan, epoch, start=start, world=case.batch) == whole[start:]


@QUICK
@given(any_cases)
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
        Plan(counts, shards, 2, 0, weights=np.array([1.0, 1.0, 1.0, 1.0])),
        Plan(counts, shards, 2, 0, weights=np.array([1.0, 2.0, 1.0, 1.0])),
    ]
    prints = [plan.fingerprint("data") for plan in plans]
    prints.append(plans[0].fingerprint("other data"))
    assert len(set(prints)) == 8
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


@QUICK
@given(weighted_cases(whole=True), st.integers(0, 50))
def test_whole_weights_are_copies_and_none_is_lost(case: Case, epoch: int) -> None:
    """Else a rare clip is shown more or less often than was asked for."""
    used = Counter(sum(batches(case.plan(), epoch), []))
    clips = [count for shard in case.shards for count in shard]
    wanted = Counter(
        {
            (row, chunk): int(weight)
            for row, weight in enumerate(case.weights or [])
            for chunk in range(clips[row])
        }
    )
    assert not used - wanted
    assert 0 <= (wanted - used).total() < case.batch


@QUICK
@given(st.lists(st.integers(0, 5 << 20)), st.integers(0, 2**32))
def test_a_weight_is_rounded_up_or_down_and_so_is_their_sum(
    weights: list[int], seed: int
) -> None:
    """Else epochs differ in length, and some lose or repeat chunks to make up for it.

    Weights are whole multiples of 2 ** -20.
    """
    drawn = draw_copies(np.array(weights, np.int64), np.random.default_rng(seed))
    exact = [Fraction(weight, 1 << 20) for weight in [*weights, sum(weights)]]
    for copies, weight in zip([*drawn, drawn.sum()], exact, strict=True):
        assert math.floor(weight) <= copies <= math.ceil(weight)


def test_clips_are_used_as_often_as_their_weights_say_on_average() -> None:
    """Else the classes that should be balanced are not.

    The mean of 400 roundings, each up or down, is within 5 standard errors, 0.125; an
    epoch of 20 x 9.55 x 2 chunks has none left over.
    """
    weights = np.tile([0.0, 0.1, 0.5, 1.0, 1.75, 6.2], 20)
    plan = Plan(np.full(120, 2), np.full(6, 20), 2, 0, weights=weights)
    uses = np.zeros(120)
    for epoch in range(400):
        for rows, _ in plan.steps(epoch):
            np.add.at(uses, rows, 1)
    mean = uses / (2 * 400)
    assert np.abs(mean - weights).max() < 0.125
    assert (mean[weights == 0] == 0).all()


def test_clips_of_half_a_copy_come_in_other_company_each_epoch() -> None:
    """Else half of the clips are always drawn together, and never with the others."""
    plan = Plan(np.ones(40, int), np.full(4, 10), 4, 0, weights=np.full(40, 0.5))
    halves = [frozenset(row for row, _ in sum(batches(plan, e), [])) for e in range(30)]
    assert {len(half) for half in halves} == {20}
    assert len(set(halves)) == 30


def test_an_epoch_that_comes_out_short_has_all_its_steps() -> None:
    """Else one rank waits for ever for an epoch that the others have left.

    One of two clips is drawn, of 1 and 99 chunks; an epoch has the mean of both.
    """
    plan = Plan(np.array([1, 99]), np.array([2]), 1, 0, weights=np.full(2, 0.5))
    epochs = [sum(batches(plan, epoch), []) for epoch in range(20)]
    assert {len(steps) for steps in epochs} == {50} == {plan.num_steps}
    assert {len(set(steps)) for steps in epochs} == {1, 50}


def test_the_order_without_weights_is_that_of_the_first_version() -> None:
    """Else a run begun with an older version goes on in another order."""
    sizes = np.array([10, 25, 5, 20])
    for weights in (None, np.ones(60)):
        counts = np.arange(60) % 4 + 1
        plan = Plan(counts, sizes, 8, 3, window_shards=2, weights=weights)
        digest = hashlib.sha256()
        for rows, chunks in itertools.chain(plan.steps(0), plan.steps(1)):
            digest.update(rows.astype("<i8").tobytes())
            digest.update(chunks.astype("<i8").tobytes())
        assert digest.hexdigest()[:16] == "a5cc142c5e7e34cb"
    assert Plan(counts, sizes, 8, 3, 2).fingerprint("data")[:16] == "53cea08764c9fd8c"


@pytest.mark.parametrize("times", [2.0, 30.0])
def test_copies_of_a_clip_meet_in_a_batch_no_more_than_by_chance(times: float) -> None:
    """Else a batch is full of one clip, and its gradient is noise.

    In a full shuffle two of N examples share a batch of B with chance (B - 1)/(N - 1).
    """
    weights = np.ones(1000)
    weights[::50] = times
    plan = Plan(np.full(1000, 3), np.full(10, 100), 40, 0, weights=weights)
    met, epochs = 0, 20
    for epoch in range(epochs):
        for rows, _ in plan.steps(epoch):
            counts = np.bincount(rows, minlength=1000)[::50]
            met += int((counts * (counts - 1) // 2).sum())
    copies, total = 3 * times, 3 * weights.sum()
    chance = 20 * copies * (copies - 1) / 2 * (40 - 1) / (total - 1)
    assert met / epochs < 1.1 * chance


def test_a_much_repeated_shard_still_gives_windows_of_many_clips() -> None:
    """Else a small dataset mixed in with a large share is heard clip by clip.

    Two of 20 shards make 9 in 10 of an epoch of one stream: a window of the length of
    4 shards has room for 400 clips, and 200 are in the two.
    """
    weights = np.full(2000, 18 / 17)
    weights[1800:] = 81.0
    plan = Plan(np.ones(2000, int), np.full(20, 100), 1, 0, weights=weights)
    order = np.array([rows[0] for rows, _ in plan.steps(0)])
    windows = order[: len(order) // 300 * 300].reshape(-1, 300)
    often = [np.bincount(window, minlength=2000).max() for window in windows]
    assert np.median(often) <= 4


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(9), "shape \\(9,\\) for 10 clips"),
        (np.array([1.0] * 9 + [np.nan]), "weight nan of row 9"),
        (np.array([1.0, -0.5] + [1.0] * 8), "weight -0.5 of row 1; expected 0 or more"),
        (np.full(10, 0.09), "sum to less than one clip"),
        (np.full(10, 0.3), "3 chunks do not fill one global batch of 4"),
    ],
)
def test_weights_that_make_no_epoch_are_refused(
    weights: np.ndarray, message: str
) -> None:
    """Else a run dies, or repeats one clip, at its first step."""
    with pytest.raises(ValueError, match=message):
        Plan(np.ones(10, int), np.array([5, 5]), 4, 0, weights=weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("world", [1, 8, 64, 512])
def test_full_audioset_starts_and_resumes_at_once(world: int, weighted: bool) -> None:
    """Else every rank waits for minutes at every epoch and every requeue.

    CPU seconds, and 4 for the 1 that is promised on an idle core: a busy machine slows
    memory down. Figures are in docs/shuffle.md.
    """
    command = [sys.executable, "-m", "tools.bench.plan_scale", "--world", str(world)]
    command += ["--weighted"] * weighted
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["share_of_batch"] == 2048 // world
    assert found["megabytes"] < 400
    assert found["first_seconds"] < 4 and found["resume_seconds"] < 4


def full_audioset(weights: np.ndarray | None = None) -> Plan:
    """Full AudioSet as 2-s chunks: 4168 shards of 500 clips and one of 320."""
    sizes = np.append(np.full(4168, 500), 320)
    return Plan(np.full(2_084_320, 5), sizes, 512, 7, weights=weights)


def test_full_audioset_has_the_steps_that_division_gives() -> None:
    """Else schedules, which count steps, end early or late."""
    plan = full_audioset()
    assert plan.num_steps == 20_354  # 10,421,600 chunks = 20,354 x 512 + 352
    tail = list(plan.steps(0, start=20_350, rank=63, world_size=64))
    assert len(tail) == 4


def test_ranks_share_full_audioset_without_a_chunk_in_common() -> None:
    """Else what holds for toys fails at the size that matters.

    The whole epoch of 4 ranks of 64: no chunk twice. And the first steps of all ranks
    after a resume, put side by side, are those of one process.
    """
    plan = full_audioset()
    uses = np.zeros((2_084_320, 5), np.int8)
    for rank in (0, 21, 42, 63):
        for rows, chunks in plan.steps(1, rank=rank, world_size=64):
            np.add.at(uses, (rows, chunks), 1)
    assert uses.max() == 1 and int(uses.sum()) == 4 * 8 * 20_354
    alone = plan.steps(1, start=13_579)
    ranks = [plan.steps(1, start=13_579, rank=r, world_size=64) for r in range(64)]
    for _ in range(3):
        shares = [next(rank)[0] for rank in ranks]
        assert np.concatenate(shares).tolist() == next(alone)[0].tolist()


def test_full_audioset_with_weights_uses_each_chunk_up_to_its_copies() -> None:
    """Else balancing at full size loses or repeats what it does not on toys."""
    weights = np.tile([0.0, 0.5, 1.5, 2.0], 521_080)
    uses = np.zeros((2_084_320, 5), np.int8)
    for rows, chunks in full_audioset(weights).steps(3, rank=1, world_size=2):
        np.add.at(uses, (rows, chunks), 1)
    assert int(uses.sum()) == 20_354 * 256
    most = uses.reshape(-1, 4, 5).max(axis=(0, 2))
    assert most.tolist() == [0, 1, 2, 2]
    share = uses.reshape(-1, 4, 5).sum(axis=(0, 2)) / uses.sum()
    assert np.abs(share - np.array([0, 0.125, 0.375, 0.5])).max() < 0.01

"""What test_launchers.py runs on two ranks; prints a line for what holds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from psl.data.batch import Batch
from psl.distributed import collectives, launch
from psl.models.families import build_model
from psl.teachers.load import Ensemble, Teacher
from psl.teachers.member import FittedMember, Member
from psl.training.online import OnlineTeacher
from shards.system.exits import JobError


def main() -> None:
    """Collective."""
    accelerator = launch.join_job()
    rank = accelerator.process_index
    tensors = [torch.full((2, 3), float(rank)), torch.tensor(2.0 + rank)]
    collectives.mean_over_ranks(tensors)
    assert (tensors[0] == 0.5).all() and tensors[1] == 2.5
    print("means are taken over the ranks")
    assert collectives.from_main(lambda: f"rank {rank} read") == "rank 0 read"
    try:
        collectives.from_main(lambda: Path("nowhere").read_text())
    except FileNotFoundError as error:
        assert error.filename == "nowhere"
        print("what rank 0 cannot read, none can")
    model = build_model(num_classes=2)
    model.get_buffer("features.0.1.running_mean").fill_(float(rank))
    collectives.weights_from_main(model)
    assert (model.get_buffer("features.0.1.running_mean") == 0).all()
    print("weights are those of rank 0")
    collectives.check_agreement(accelerator, {"seed": "1", "data": "a"})
    try:
        collectives.check_agreement(accelerator, {"seed": "1", "data": f"{rank}"})
    except JobError as error:
        assert "ranks [1] see other data or another config" in str(error)
        assert f"(rank {rank} has data = {rank})" in str(error)
        print("disagreement is an error on both")
    online = OnlineTeacher(
        Teacher(("good", "bad"), Ensemble([_member(0.5), _member(1.0)], [1, 1]), 1, []),
        alpha=1.0,
    )
    # 0.5 is what both give on rank 0, and 2.0, no probability, the second on rank 1
    pcm = torch.full((2, 4), 32767 if rank else 16384, dtype=torch.int16)
    online.teach(Batch(pcm, torch.full((2,), 4), torch.zeros(2, 3)), 1)
    assert online.bad_chunks(1).any() == bool(rank)
    assert online.blame() == "bad (member 1 of 2)"
    print("a member that fails on one rank is known to both")
    launch.leave_job(accelerator)


class Loudness(nn.Module):
    """Gives the first sample, times a factor if that is loud."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """[B, 3] values."""
        loud = waveform[:, :1] > 0.9
        return waveform[:, :3] * torch.where(loud, 2 * self.factor, 1.0)


def _member(factor: float) -> FittedMember:
    return FittedMember(Member(Loudness(factor), 1, None, {}), 1)


if __name__ == "__main__":
    main()

"""What test_launchers.py runs on two ranks; prints a line for what holds."""

from __future__ import annotations

import torch

from psl import runtime
from psl.models import build_model
from shards.cli import JobError


def main() -> None:
    """Collective."""
    accelerator = runtime.start()
    rank = accelerator.process_index
    model = build_model(num_classes=2)
    window = model.get_buffer("front_end.0.spectrogram.window").clone()
    model.get_buffer("features.0.1.running_mean").fill_(float(rank))
    model.get_buffer("features.0.1.running_var").fill_(2.0 + rank)
    runtime.average_norm_statistics(model)
    assert (model.get_buffer("features.0.1.running_mean") == 0.5).all()
    assert (model.get_buffer("features.0.1.running_var") == 2.5).all()
    assert torch.equal(model.get_buffer("front_end.0.spectrogram.window"), window)
    print("statistics are averaged, other buffers untouched")
    runtime.check_agreement(accelerator, "the same")
    try:
        runtime.check_agreement(accelerator, f"epoch {rank}")
    except JobError as error:
        assert "ranks [1] see other data" in str(error)
        print("disagreement is an error on both")
    runtime.finish(accelerator)


if __name__ == "__main__":
    main()

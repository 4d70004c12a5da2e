"""What test_zero.py runs on two ranks: a gradient that is infinite, its loss not.

The only word is the strategy.
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn

from psl.data.batch import Batch
from psl.distributed import launch
from psl.distributed.zero import gather_weights
from psl.models.families import build_model
from psl.training.config import OptimConfig
from psl.training.optim import build_optimizer
from tests.learning import TINY_MODEL
from tests.steppers import make_stepper


def main() -> None:
    """Collective."""
    strategy: launch.Strategy = sys.argv[1]  # type: ignore[assignment]
    accelerator = launch.join_job(strategy=strategy, global_batch_size=4)
    model = build_model(num_classes=2, **TINY_MODEL)
    bias = model.get_parameter("classifier.1.bias")
    optimizer = build_optimizer(model, OptimConfig())
    if strategy != "ddp":
        model, optimizer = accelerator.prepare(model, optimizer)
    changed = {"seed": 0, "clip_grad_norm": None, "nonfinite": "stop"}
    step = make_stepper(accelerator, model, optimizer, **changed)
    pcm = torch.randint(-999, 999, (2, 16000), dtype=torch.int16)
    batch = Batch(
        pcm=pcm, num_samples=torch.full((2,), 16000), targets=torch.ones(2, 2)
    )
    before = _whole(model)
    handle = bias.register_hook(_infinite if accelerator.process_index else _same)
    [outcome] = step(batch, 1, learning_rate=0.1, stop=False)
    assert math.isfinite(outcome.loss) and torch.equal(_whole(model), before)
    print(f"problem: {outcome.problem}")
    handle.remove()
    assert step(batch, 2, learning_rate=0.1, stop=False)[0].problem is None
    assert not torch.equal(_whole(model), before)
    print("then it goes on")
    del model, optimizer, step, bias, handle
    launch.leave_job(accelerator)


def _whole(model: nn.Module) -> Tensor:
    """The head's bias, on whatever ranks its parts are. Collective."""
    bare = getattr(model, "module", model)
    weights = bare.state_dict() if sys.argv[1] == "ddp" else gather_weights(bare)
    return weights["classifier.1.bias"].detach().clone()


def _infinite(gradient: Tensor) -> Tensor:
    return gradient * torch.inf


def _same(gradient: Tensor) -> Tensor:
    return gradient


if __name__ == "__main__":
    main()

"""What tools/gpu/check.py measures, by tools/gpu/speed.py in processes of their own.

Owns what is measured with what. Chunks are of 2 s; models are full-size on a GPU.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from tools.gpu.runner import Check, Skipped

THREADS = (1, 2, 8)
"""Of the loader."""


def speed_data(check: Check) -> dict[str, Any]:
    """Clips of 10 s to measure with, and a dense label for each of their chunks."""
    size = check.size
    task = {"num_clips": size.speed_clips, "num_classes": size.num_classes}
    return check.measure("data", {"folder": _audio(check), **task})


def _audio(check: Check) -> str:
    return str(check.folder / "speed" / "audio")


def bare(check: Check) -> dict[str, Any]:
    """The step alone: batch size, precision, layout of the convolutions' weights."""
    return {
        f"batch {batch}": check.measure("bare", _sizes(check, batch), f"bare_{batch}")
        for batch in check.size.speed_batches
    }


def _sizes(check: Check, batch_size: int) -> dict[str, Any]:
    size = check.size
    return {
        "model": _model(check),
        "num_classes": size.num_classes,
        "batch_size": batch_size,
        "precisions": size.speed_precisions,
        "rounds": size.speed_rounds,
        "steps": max(1, size.speed_chunks // batch_size // 20),
    }


def _model(check: Check) -> dict[str, Any]:
    return {"name": "mobilenetv2", **check.size.model, "dropout": 0.3}


def graph(check: Check) -> dict[str, Any]:
    """The whole step as a CUDA graph: the bare one, and the product's."""
    if check.device == "cpu":
        raise Skipped("--device cpu: CUDA graphs are recorded on GPUs only")
    return _product(check, "graph", cuda_graph=True)


def product(check: Check) -> dict[str, Any]:
    """The product's step on a batch that is there, beside the bare one.

    What it costs to wait for the verdict in each step; kernels, and the idle GPU.
    """
    return _product(check, "product", cuda_graph=False)


def _product(check: Check, name: str, *, cuda_graph: bool) -> dict[str, Any]:
    found = {}
    for batch_size in check.size.speed_batches:
        run = f"{name}_{batch_size}"
        config = _config(check, run, batch_size, cuda_graph=cuda_graph)
        task = {"config": config, **_sizes(check, batch_size)}
        found[f"batch {batch_size}"] = check.measure("product", task, run)
    return found


def _config(
    check: Check, name: str, batch_size: int, **values: object
) -> dict[str, Any]:
    return {
        "run_dir": str(check.folder / "speed_runs" / name),
        "data": {
            "audio": [_audio(check)],
            "labels": [str(check.folder / "speed" / "labels")],
            "valid": _audio(check),
            "chunk_seconds": 2.0,
        },
        "model": _model(check),
        "global_batch_size": batch_size,
        "tracker": [],
        **values,
    }


def train_speed(check: Check) -> dict[str, Any]:
    """Training as it is, by batch size and precision: with the loader and without."""
    found = {}
    for batch_size in check.size.speed_batches:
        for precision in check.size.speed_precisions:
            name = f"batch_{batch_size}_{precision}"
            config = _config(check, name, batch_size, precision=precision)
            steps = check.size.speed_chunks // batch_size
            task = {"config": config, "num_steps": steps}
            found[name] = check.measure("train", task, name)
    return found


def fed(check: Check) -> dict[str, Any]:
    """The same by threads of the loader, and the host's memory over the steps."""
    batch_size, found = check.size.speed_batches[-1], {}
    for threads in THREADS:
        name = f"threads_{threads}"
        config = _config(check, name, batch_size, loader={"threads": threads})
        task = {"config": config, "num_steps": check.size.fed_steps}
        found[name] = check.measure("train", task, name)
    return found


def published(check: Check) -> dict[str, Any]:
    """The published way of working: on a batch that is there, and from HDF5."""
    batch_size = check.size.speed_batches[0]
    found = {"resident": check.measure("published", _sizes(check, batch_size))}
    if importlib.util.find_spec("h5py") is None:
        found["hdf5"] = {"not_tried": "h5py is not installed"}
        return found
    out = check.folder / "published.json"
    words = ["-m", "tools.bench.train", "--rounds", str(check.size.speed_rounds)]
    words += ["--batch", str(batch_size), "--model", json.dumps(_model(check))]
    check.run("published_hdf5", [*words, "--out", str(out)])
    rounds = json.loads(out.read_text())["rounds"]
    speeds = {way: [r[way] for r in rounds] for way in ("published", "ours", "bare")}
    found["hdf5"] = check.measure("ratios", {"speeds": speeds}, "published_ratios")
    return found


def label_speed(check: Check) -> dict[str, Any]:
    """The label job beside the bare forward pass of its teacher, by batch size."""
    found = {}
    for batch_size in check.size.speed_batches:
        name = f"label_batch_{batch_size}"
        task = {
            "teacher": str(check.folder / "plain"),
            "audio": _audio(check),
            "out": str(check.folder / name),
            "batch_size": batch_size,
        }
        found[name] = check.measure("label", task, name)
    return found


def deterministic_speed(check: Check) -> dict[str, Any]:
    """What arithmetic.deterministic and tf32 cost or gain, of the bare step."""
    batch_size = check.size.speed_batches[-1]
    return check.measure("arithmetic", _sizes(check, batch_size))


def compile_speed(check: Check) -> dict[str, Any]:
    """torch.compile, default and reduce-overhead, beside the step as it is."""
    if check.device == "cpu":
        raise Skipped("--device cpu: the C++ compiler takes minutes for the model")
    return check.measure("compile", _sizes(check, check.size.speed_batches[-1]))

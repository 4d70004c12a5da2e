"""A checkpoint -> a folder for the Hugging Face transformers library and its Hub.

Owns its files: config.json and modeling_psl.py with copies of our modules that the
model needs, so that it runs without psl (trust_remote_code); preprocessor_config.json;
README.md, the model card. The weights and state.json are those of a checkpoint folder,
so that psl.load and every command take the folder as it is.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from psl.exporting.about import About
from psl.exporting.card import model_card
from psl.models.config import ModelConfig
from psl.weights.checkpoint import Checkpoint, save_checkpoint
from shards import __version__
from shards.system.files import folder_atomic, write_synced

MODEL_TYPE = "psl"
_ENTRY = "psl.models.families"
_TEMPLATE = Path(__file__).with_name("modeling_psl.py.txt")


def export_huggingface(
    checkpoint: Checkpoint, out: Path, *, facts: About, license: str | None
) -> None:
    """Write the folder ``out``, which must not exist."""
    card = model_card(checkpoint, facts=facts, license=license)
    files = {
        "config.json": json.dumps(hub_config(checkpoint), indent=1) + "\n",
        "preprocessor_config.json": json.dumps(_extractor(checkpoint), indent=1) + "\n",
        "README.md": card,
        "modeling_psl.py": _TEMPLATE.read_text(encoding="utf-8"),
        **copied_modules(),
    }
    with tempfile.TemporaryDirectory(prefix="psl-export-") as aside:
        slim = Path(aside, "checkpoint")
        save_checkpoint(
            slim,
            model=checkpoint.build_model(),
            optimizer={},
            model_config=checkpoint.model_config,
            classes=checkpoint.classes,
            training=checkpoint.training,
        )
        with folder_atomic(out) as folder:
            for path in slim.iterdir():
                shutil.copyfile(path, folder / path.name)
            for name, text in files.items():
                write_synced(folder / name, text)


def hub_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json."""
    names, mids = checkpoint.classes.names, checkpoint.classes.mids
    return {
        "architectures": ["PSLForAudioClassification"],
        "model_type": MODEL_TYPE,
        "auto_map": {
            "AutoConfig": "modeling_psl.PSLConfig",
            "AutoModelForAudioClassification": "modeling_psl.PSLForAudioClassification",
        },
        "psl_version": __version__,
        "model": TypeAdapter(ModelConfig).dump_python(
            checkpoint.model_config, mode="json"
        ),
        "sampling_rate": checkpoint.model_config.front_end.sample_rate,
        "problem_type": "multi_label_classification",
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "mids": list(mids),
        "dtype": "float32",
    }


def _extractor(checkpoint: Checkpoint) -> dict[str, Any]:
    """preprocessor_config.json: waveforms as they are."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": checkpoint.model_config.front_end.sample_rate,
        "do_normalize": False,
        "padding_value": 0.0,
        "return_attention_mask": True,
    }


def copied_modules() -> dict[str, str]:
    """Our modules that build a model, as files of one folder, by file name.

    ``psl.models.mn`` becomes ``psl_models_mn.py``, imported from the same folder.
    """
    found: dict[str, str] = {}
    waiting = [_ENTRY]
    while waiting:
        module = waiting.pop()
        name = _file_name(module)
        if name in found:
            continue
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None
        text = Path(spec.origin).read_text(encoding="utf-8")
        waiting += _imports(text)
        found[name] = (
            f"# From psl {__version__}, module {module} (Apache-2.0), imports "
            f"changed.\n{_relative(text)}"
        )
    return found


def _file_name(module: str) -> str:
    return module.replace(".", "_") + ".py"


def _imports(text: str) -> list[str]:
    """The modules of psl that a module imports, except for type checking."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("psl"):
            package = str(node.module)
            inside = [f"{package}.{alias.name}" for alias in node.names]
            modules = [m for m in inside if _is_module(m)]
            found += modules or [package]
        elif isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith("psl.")]
    return found


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _relative(text: str) -> str:
    """The same, with imports of psl turned into imports from this folder."""
    lines = []
    for line in text.splitlines():
        if match := re.match(r"from psl\.models import (.+)$", line):
            names = [name.strip() for name in match[1].split(",")]
            # transformers finds files by `from .name import`
            lines += [
                f"from .psl_models_{n} import build as _build_{n}; "
                f"from . import psl_models_{n} as {n}"
                for n in names
            ]
        elif match := re.match(r"import (psl\.[\w.]+)", line):
            name = match[1].replace(".", "_")
            lines.append(f"from .{name} import torchaudio as _torchaudio")
        elif match := re.match(r"(\s*)from (psl\.[\w.]+) import(.*)$", line):
            name = match[2].replace(".", "_")
            lines.append(f"{match[1]}from .{name} import{match[3]}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"

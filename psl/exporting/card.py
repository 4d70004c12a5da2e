"""The model card: README.md of a Hugging Face folder.

Names of classes, teachers and data come from anyone and stay text.
"""

from __future__ import annotations

import re

import yaml

from psl.exporting.about import About
from psl.weights.checkpoint import Checkpoint
from shards import __version__
from shards.system.text import markdown

MAX_CLASSES = 1000
"""Classes that a card lists."""


def model_card(checkpoint: Checkpoint, *, facts: About, license: str | None) -> str:
    """The card, in Markdown with a YAML header."""
    config = checkpoint.model_config
    rate = config.front_end.sample_rate
    size = sum(tensor.numel() for tensor in checkpoint.weights.values())
    known = "unknown; ask who trained it" if license is None else markdown(license)
    data = ", ".join(map(markdown, facts.data)) or "not recorded"
    return f"""---
{_header(license)}---

# Audio tagger

{config.name}, {size / 1e6:.2f} million parameters, {len(checkpoint.classes)} classes,
mono audio at {rate} Hz.
Trained with [psl](https://arxiv.org/abs/2204.13430) {__version__}.

| | |
|---|---|
| Metrics | {_metrics(facts)} |
| Training data | {data} |
| Teacher | {markdown(facts.teacher or "not recorded", 300)} |
| Started from | {_origin(facts)} |
| Licence of the weights | {known} |
| SHA-256 of the weights | {checkpoint.model_sha256} |

## Use

With psl, `psl.load("FOLDER")`, or with transformers, which runs code of this folder:

```python
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

extractor = AutoFeatureExtractor.from_pretrained("FOLDER")
model = AutoModelForAudioClassification.from_pretrained(
    "FOLDER", trust_remote_code=True
)
inputs = extractor(waveform, sampling_rate={rate}, return_tensors="pt")
output = model(**inputs)
probabilities = output.logits.sigmoid()  # [1, {len(checkpoint.classes)}], of the clip
frames = output.frame_probs  # [1, frames, {len(checkpoint.classes)}]
```

A clip may have several classes or none. Metrics hold for audio like that of the
evaluation; try the model on yours first.

## Classes

{_classes(checkpoint)}
"""


def _origin(facts: About) -> str:
    origin = facts.origin
    if origin is None:
        return "not recorded"
    return markdown(f"{origin.title}, {origin.url}; {origin.citation}", 500)


def _header(license: str | None) -> str:
    values: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "tags": ["audio-tagging", "psl"],
    }
    if license is not None and re.fullmatch(
        r"[a-z0-9][a-z0-9.-]{0,40}", license.lower()
    ):
        values["license"] = license.lower()
    return yaml.safe_dump(values, sort_keys=False)


def _metrics(facts: About) -> str:
    if not facts.metrics:
        return "not recorded"
    values = ", ".join(f"{name} {value:.4f}" for name, value in facts.metrics.items())
    return f"{values} on {markdown(facts.measured_on or 'validation data')}"


def _classes(checkpoint: Checkpoint) -> str:
    classes = checkpoint.classes
    pairs = list(zip(classes.names, classes.mids, strict=True))[:MAX_CLASSES]
    lines = [
        f"- {markdown(name)}" + (f" ({markdown(mid)})" if mid != name else "")
        for name, mid in pairs
    ]
    if len(classes) > MAX_CLASSES:
        lines.append(f"- and {len(classes) - MAX_CLASSES} more, in config.json")
    return "\n".join(lines)

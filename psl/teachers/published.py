"""The published AudioSet taggers that can be named as teachers: one table.

Owns the facts; psl/teachers/fetch.py fetches what is here, psl/teachers/named.py finds
it again. Every fact is one that its authors publish: addresses and mAP in their README
or record, and SHA-256 where several independent users of a file report the same one.
What none reports is None, and then is not checked.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class File:
    """One file of a teacher."""

    name: str
    sha256: str | None = None
    num_bytes: int | None = None


@dataclass(frozen=True)
class PublishedTeacher:
    """What is known of a published tagger; its outputs are AudioSet's 527 classes."""

    name: str
    title: str
    sample_rate: int
    """Hz."""
    audioset_map: float
    """mAP on AudioSet's evaluation set, percent, as its authors state it."""
    licence: str
    citation: str
    url: str
    """The folder of ``files``, or the page of a teacher that has none here."""
    files: tuple[File, ...] = ()
    """What is fetched; empty for a teacher that transformers has to load."""
    family: str = ""
    """The model that the files must hold."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Values that the configuration of that model must have."""
    tensors_sha256: str | None = None
    """Of psl/weights/tensors.py, for the same tensors in another form of file."""
    setting: str | None = None
    """What to write for ``teacher`` instead of the name."""
    is_tried: bool = False
    """Whether this project has run the published weights, not only made ones of the
    same shapes."""

    @property
    def check(self) -> str:
        """How much of what is fetched is checked: sha256, size or nothing."""
        if self.files and all(file.sha256 for file in self.files):
            return "sha256"
        if self.files and all(file.num_bytes for file in self.files):
            return "size"
        return "no"


_EFFICIENTAT = (
    "Schmid, Koutini, Widmer: Efficient Large-Scale Audio Tagging via "
    "Transformer-to-CNN Knowledge Distillation, ICASSP 2023, arXiv 2211.04772"
)
_PANNS = (
    "Kong et al.: PANNs: Large-Scale Pretrained Audio Neural Networks for Audio "
    "Pattern Recognition, TASLP 2020, arXiv 1912.10211"
)
_AST = "Gong, Chung, Glass: AST: Audio Spectrogram Transformer, Interspeech 2021"
_CED = (
    "Dinkel et al.: CED: Consistent Ensemble Distillation for Audio Tagging, ICASSP "
    "2024, arXiv 2308.11957"
)
_PSL = (
    "Dinkel et al.: Pseudo Strong Labels for Large Scale Weakly Supervised Audio "
    "Tagging, ICASSP 2022, arXiv 2204.13430"
)


def _mn(
    name: str, file: File, audioset_map: float, width: float, **facts: Any
) -> PublishedTeacher:
    return PublishedTeacher(
        name=name,
        title=f"EfficientAT {file.name.partition('_mAP')[0]}",
        sample_rate=32000,
        audioset_map=audioset_map,
        licence="MIT",
        citation=_EFFICIENTAT,
        url="https://github.com/fschmid56/EfficientAT/releases/download/v0.0.1",
        files=(file,),
        family="mn",
        settings={"width": width},
        **facts,
    )


def _cnn14(
    name: str, file: File, audioset_map: float, sample_rate: int
) -> PublishedTeacher:
    return PublishedTeacher(
        name=name,
        title=f"PANNs {file.name.partition('_mAP')[0]}",
        sample_rate=sample_rate,
        audioset_map=audioset_map,
        licence="CC BY 4.0",
        citation=_PANNS,
        url="https://zenodo.org/records/3987831/files",
        files=(file,),
        family="cnn14",
        settings={"pooling": "clip"},
    )


def _ced(size: str, audioset_map: float) -> PublishedTeacher:
    hub = f"mispeech/ced-{size}"
    return PublishedTeacher(
        name=f"ced_{size}",
        title=f"CED {size}",
        sample_rate=16000,
        audioset_map=audioset_map,
        licence="Apache-2.0",
        citation=_CED,
        url=f"https://huggingface.co/{hub}",
        setting=f"{{path: {hub}, kind: huggingface, trust_remote_code: true, "
        "activation: none}",
    )


_TABLE = (
    _mn("mn01", File("mn01_as_mAP_298.pt"), 29.8, 0.1),
    _mn("mn02", File("mn02_as_mAP_378.pt"), 37.8, 0.2),
    _mn(
        "mn04",
        File(
            "mn04_as_mAP_432.pt",
            "899a8c6217063f6941793102a2780b3dd788ab11fce468d9cf5f0577c453321c",
        ),
        43.2,
        0.4,
        tensors_sha256="0feb19b2c94ce8abef74ad53fc25d4adb84e21bc41c0d96b1dbccfd6d93d56d0",
        is_tried=True,
    ),
    _mn("mn05", File("mn05_as_mAP_443.pt"), 44.3, 0.5),
    _mn(
        "mn10",
        File(
            "mn10_as_mAP_471.pt",
            "0bd7dc2443af498c289a2e739f02ebb515d6aa3fd3ab9db539c86123ae368a4e",
            19_708_753,
        ),
        47.1,
        1.0,
    ),
    _mn("mn20", File("mn20_as_mAP_478.pt"), 47.8, 2.0),
    _mn("mn30", File("mn30_as_mAP_482.pt"), 48.2, 3.0),
    _mn("mn40", File("mn40_as_mAP_484.pt"), 48.4, 4.0),
    _mn("mn40_2", File("mn40_as_mAP_483.pt"), 48.3, 4.0),
    _mn("mn40_ext", File("mn40_as_ext_mAP_487.pt"), 48.7, 4.0),
    _mn("mn40_ext_2", File("mn40_as_ext_mAP_486.pt"), 48.6, 4.0),
    _mn("mn40_ext_3", File("mn40_as_ext_mAP_485.pt"), 48.5, 4.0),
    _mn("mn40_no_im_pre", File("mn40_as_no_im_pre_mAP_483.pt"), 48.3, 4.0),
    _mn("mn40_no_im_pre_3", File("mn40_as_no_im_pre_mAP_482.pt"), 48.2, 4.0),
    _cnn14(
        "cnn14",
        File(
            "Cnn14_mAP=0.431.pth",
            "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31",
            327_428_481,
        ),
        43.1,
        32000,
    ),
    _cnn14(
        "cnn14_16k",
        File(
            "Cnn14_16k_mAP=0.438.pth",
            "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6",
            358_668_570,
        ),
        43.8,
        16000,
    ),
    PublishedTeacher(
        name="mobilenetv2",
        title="the paper's MobileNetV2 teacher",
        sample_rate=16000,
        audioset_map=40.53,
        licence="unknown here; see zenodo.org/records/6003838",
        citation=_PSL,
        url="https://zenodo.org/records/6003838/files",
        files=(File("mobilenetv2_mAP40_53.pt"),),
        family="mobilenetv2",
    ),
    PublishedTeacher(
        name="ast",
        title="AST, 10 and 10 frames",
        sample_rate=16000,
        audioset_map=45.93,
        licence="BSD-3-Clause",
        citation=_AST,
        url="https://huggingface.co/MIT/ast-finetuned-audioset-10-10-0.4593/resolve/main",
        files=(
            File("config.json"),
            File("preprocessor_config.json"),
            File("model.safetensors"),
        ),
        family="ast",
    ),
    _ced("tiny", 48.1),
    _ced("mini", 49.0),
    _ced("small", 49.6),
    _ced("base", 50.0),
)
TEACHERS = {teacher.name: teacher for teacher in _TABLE}
"""Every teacher by its name."""


def teacher_named(name: str) -> PublishedTeacher:
    """The teacher of that name; ValueError with near names if there is none."""
    if name not in TEACHERS:
        raise ValueError(
            f"no published teacher is called {name!r}{suggestion(name)}; psl teachers "
            "lists them"
        )
    return TEACHERS[name]


def suggestion(name: str) -> str:
    """``; near it: mn04, mn40`` where names are near, else nothing."""
    near = difflib.get_close_matches(name.lower(), TEACHERS, n=3, cutoff=0.6)
    return f"; near it: {', '.join(near)}" if near else ""

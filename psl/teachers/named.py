"""A teacher's name -> the checkpoint folder that was fetched for it.

Owns where fetched teachers are, and what is said where there is none. A path that
exists always wins over a name.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from psl.teachers.config import TeacherConfig, kind_of
from psl.teachers.published import TEACHERS, suggestion
from psl.weights.kinds import SUFFIXES
from shards.dataset.cache import ShardCache, default_folder
from shards.remote.places import is_url
from shards.system.extras import pip_install

FOLDER_NAME = "teachers"
"""In the cache folder, which leaves it alone."""


def teachers_folder(cache: str | Path | None = None) -> Path:
    """The folder of all fetched teachers below ``cache``; None for the user's cache."""
    return Path(default_folder() if cache is None else cache, FOLDER_NAME)


def resolve(config: TeacherConfig, cache: ShardCache) -> TeacherConfig:
    """``config`` with the folder of a published teacher for its name.

    Raises ValueError if the name is no published teacher's, or that is not fetched, or
    ``config`` has settings that are not for a run.
    """
    if config.kind is not None or not _is_name(config.path):
        return config
    kind_of(config)  # has it settings that a name cannot have?
    name = config.path
    if name not in TEACHERS:
        raise ValueError(
            f"teacher {name}: no such file or folder, and no published teacher has "
            f"this name{suggestion(name)}; psl teachers lists them"
        )
    return replace(config, path=checkpoint_of(name, cache.folder), kind="run")


def checkpoint_of(path: str, cache: str | Path | None = None) -> str:
    """The folder of the published teacher that ``path`` names; other paths as they are.

    Looks below ``cache``, then in the user's cache folder. Raises ValueError if that
    teacher is not fetched.
    """
    if path not in TEACHERS or not _is_name(path):
        return path
    if setting := TEACHERS[path].setting:
        raise ValueError(
            f"teacher {path}: comes with code of its own, which is not run unasked; "
            f"with {pip_install('teachers')}, write 'teacher={setting}'"
        )
    for folder in (teachers_folder(cache) / path, teachers_folder() / path):
        if folder.exists():
            return str(folder)
    raise ValueError(f"teacher {path}: not fetched yet; run: psl teachers fetch {path}")


def check_model(path: str | Path) -> None:
    """ValueError at once, without torch, for a model that is nowhere to be found."""
    name = str(path)
    if checkpoint_of(name) == name and not (is_url(name) or Path(name).exists()):
        raise ValueError(
            f"{name}: no such file or folder, and no published teacher has this name"
            f"{suggestion(name)}; expected a run or checkpoint folder, or a name that "
            "psl teachers lists"
        )


def _is_name(path: str) -> bool:
    """Whether ``path`` is one word, and leads nowhere."""
    is_path = "/" in path or is_url(path) or Path(path).suffix in SUFFIXES
    return not (is_path or path in (".", "..") or Path(path).exists())

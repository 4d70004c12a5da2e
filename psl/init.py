"""The command that writes configurations and launch files into a folder.

For those who installed the package and have no clone. Owns which files there are and
that none is overwritten. psl/recipes/ links to configs/ and launch/, their one home; a
wheel has copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from shards.system.arguments import Parser
from shards.system.exits import JobError, run_main, typed_name
from shards.system.files import create_atomic, open_regular

FOLDERS = ("configs", "launch")
SUFFIXES = (".yaml", ".json", ".sbatch")
SHOWN_FILES = 5
"""Files that an error names."""


def recipes() -> dict[str, bytes]:
    """The files by relative path, such as configs/mini/base.yaml.

    Raises JobError where the installed package lacks them.
    """
    home = resources.files("psl").joinpath("recipes")
    found: dict[str, bytes] = {}
    for folder in FOLDERS:
        place = home.joinpath(folder)
        if not place.is_dir():
            raise JobError(
                f"{place}: not there, so this installation of psl is not whole; "
                "install it again"
            )
        found.update(_files(place, folder))
    return found


def _files(place: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    for item in sorted(place.iterdir(), key=lambda item: item.name):
        path = f"{name}/{item.name}"
        if item.is_dir():
            yield from _files(item, path)
        elif item.name.endswith(SUFFIXES):
            yield path, item.read_bytes()


def write_recipes(folder: Path, files: dict[str, bytes]) -> list[str]:
    """Write those of ``files`` that are not there with this content, and name them.

    Raises ValueError naming files that have another content; nothing is then written.
    """
    missing, other = [], []
    for name, content in files.items():
        if in_the_way := _in_the_way(folder, name, content):
            other.append(str(in_the_way))
        elif not (folder / name).exists():
            missing.append(name)
    if other:
        other = list(dict.fromkeys(other))
        named = ", ".join(other[:SHOWN_FILES])
        more = len(other) - SHOWN_FILES
        raise ValueError(
            f"{named}{f' and {more} more' if more > 0 else ''}: there already, with "
            "other content, and never overwritten; choose another folder, or move them"
        )
    for name in missing:
        create_atomic(path := folder / name, files[name])
        if path.suffix == ".sbatch":  # scripts, as in the clone
            path.chmod(path.stat().st_mode | 0o100)
    return missing


def _in_the_way(folder: Path, name: str, content: bytes) -> Path | None:
    """What is where a file is to be written, unless it is that file."""
    path = folder / name
    for parent in reversed(path.parents):
        if (parent.exists() or parent.is_symlink()) and not parent.is_dir():
            return parent
    if not path.exists():
        return path if path.is_symlink() else None
    if not path.is_file():
        return path
    with open_regular(path) as stream:
        return None if stream.read(len(content) + 1) == content else path


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of ``python -m psl.init``."""
    name = typed_name("psl.init")
    parser = Parser(
        prog=name,
        description="Write the configurations (configs/) and launch files (launch/) of "
        "this version into a folder. Nothing is overwritten.",
        epilog=f"example: {name} my_experiments",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="made if need be")
    folder = parser.parse_args(argv).folder
    files = recipes()
    written = write_recipes(folder, files)
    kept = len(files) - len(written)
    already = f", {kept} were there already" if kept else ""
    print(f"{folder}: wrote {len(written)} of {len(files)} files{already}")


if __name__ == "__main__":
    run_main(main)

"""onnxruntime-web, which the browser test runs models with: fetched once, checked.

python tests/onnxruntime_web.py fetches it from the npm registry into .cache; needs
nothing but Python. npm_config_registry names another registry.
"""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

VERSION = "1.30.0"
SHA512 = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02V"
    "b7QmRMDs1SigqR4CXAfKYQ=="
)
"""Of the registry's tarball, as npm shows it."""
FILES = (
    *("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs"),
    "ort-wasm-simd-threaded.wasm",
)
_REGISTRY = "https://registry.npmjs.org"
_MAX_BYTES = 100 << 20


def kept() -> Path:
    """Where the tarball is kept."""
    name = f"onnxruntime-web-{VERSION}.tgz"
    return Path(__file__).resolve().parents[1] / ".cache" / name


def problem() -> str | None:
    """What is wrong with the kept tarball and what to do; None if nothing."""
    if not kept().exists():
        return f"no onnxruntime-web here (make programs fetches it to {kept().parent})"
    if _hash(kept().read_bytes()) != SHA512:
        return f"{kept()} is damaged; delete it and run make programs"
    return None


def fetch() -> None:
    """Fetch the tarball, unless it is there and whole."""
    if problem() is None:
        return
    given = os.environ.get("npm_config_registry")  # noqa: SIM112 - npm's own name
    registry = (given or _REGISTRY).rstrip("/")
    url = f"{registry}/onnxruntime-web/-/{kept().name}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        data = answer.read(_MAX_BYTES)
    if (found := _hash(data)) != SHA512:
        raise SystemExit(f"{url}: sha512 is {found}, expected {SHA512}")
    kept().parent.mkdir(exist_ok=True)
    aside = kept().with_suffix(f".{os.getpid()}")
    aside.write_bytes(data)
    aside.replace(kept())


def contents() -> dict[str, bytes]:
    """The files that a page needs, by name."""
    with tarfile.open(kept()) as archive:
        found = {}
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None
            found[name] = member.read()
        return found


def _hash(data: bytes) -> str:
    return base64.b64encode(hashlib.sha512(data).digest()).decode()


if __name__ == "__main__":
    try:
        fetch()
    except OSError as error:
        sys.exit(f"onnxruntime-web: {error}; the browser test cannot run")

"""Plain values -> one HTML file that loads nothing.

Owns how the parts are put together and what keeps data from becoming markup: it is JSON
without a ``<``, the page's script writes text only, and the browser is told to run this
one script, by its hash, and to fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any


def render(facts: dict[str, Any]) -> str:
    """The page. Raises ValueError for a value that JSON does not have."""
    style, script = _part("page.css"), _part("page.js")
    text = json.dumps(facts, allow_nan=False, separators=(",", ":"))
    data = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    policy = (
        "default-src 'none'; media-src data:; img-src data:; base-uri 'none'; "
        "form-action 'none'; "
        f"script-src {_hash(script)}; style-src {_hash(style)}"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>psl report</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main id="report"><noscript>This report is drawn by JavaScript, which is off in this
browser. Its numbers are in metrics.json and per_class.csv of the evaluations.
</noscript>
</main>
<script type="application/json" id="facts">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _part(name: str) -> str:
    return resources.files("psl.reporting").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

"""Style and script of a package -> a page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources

from psl.serving.local import Reply


def page(package: str, title: str, *, policy: str = "") -> Reply:
    """``page.css`` and ``page.js`` of ``package`` as an HTML page.

    The browser runs this one script, by its hash; what it may fetch is the server's own
    and what ``policy`` adds.
    """
    style, script = (
        (resources.files(package) / name).read_text("utf-8")
        for name in ("page.css", "page.js")
    )
    rules = (
        "default-src 'none'; connect-src 'self'; img-src data: blob:; "
        "media-src blob:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; script-src {_hash(script)}; "
        f"style-src {_hash(style)}{policy}"
    )
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main id="page"><noscript>This page needs JavaScript, which is off here.</noscript>
</main>
<script>{script}</script>
</body>
</html>
"""
    return Reply(text.encode(), "text/html; charset=utf-8", policy=rules)


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"

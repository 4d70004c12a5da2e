"""Style and script of a package -> a page that loads nothing from elsewhere.

Owns the frame of a page, and that the browser runs its script and no other.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources

from psl.serving.local import Reply


def page(package: str, title: str) -> Reply:
    """``page.css`` and ``page.js`` of ``package`` as a page of a LocalServer.

    It may fetch what the server has, and play and draw what it holds itself.
    """
    rules = (
        "connect-src 'self'; img-src data: blob:; media-src blob:; "
        "frame-ancestors 'none'"
    )
    text, policy = frame(
        package,
        title,
        '<main id="page"><noscript>This page needs JavaScript, which is off here.'
        "</noscript>\n</main>",
        rules,
    )
    return Reply(text.encode(), "text/html; charset=utf-8", policy=policy)


def frame(
    package: str, title: str, body: str, rules: str, *, in_page: bool = False
) -> tuple[str, str]:
    """A page with ``body`` before its script, and its Content-Security-Policy.

    ``rules`` say what it may load; ``in_page`` puts the policy into the page itself.
    """
    style = _part(package, "page.css")
    script = _part("psl.serving", "base.js") + _part(package, "page.js")
    policy = (
        f"default-src 'none'; {rules}; base-uri 'none'; form-action 'none'; "
        f"script-src {_hash(script)}; style-src {_hash(style)}"
    )
    equivalent = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{equivalent if in_page else ""}\
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html.escape(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""
    return text, policy


def _part(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"

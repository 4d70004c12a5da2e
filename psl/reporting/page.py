"""Plain values -> one HTML file that loads nothing.

Owns how the parts are put together and what keeps data from becoming markup: it is JSON
without a ``<``, the page's script writes text only, and the browser is told to run this
one script, by its hash, and to fetch nothing.
"""

from __future__ import annotations

import json
from typing import Any

from psl.serving.page import frame


def render(facts: dict[str, Any]) -> str:
    """The page. Raises ValueError for a value that JSON does not have."""
    text = json.dumps(facts, allow_nan=False, separators=(",", ":"))
    data = text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    body = f"""<main id="report"><noscript>
This report is drawn by JavaScript, which is off in this browser. Its numbers are in
metrics.json and per_class.csv of the evaluations.
</noscript>
</main>
<script type="application/json" id="facts">{data}</script>"""
    rules = "media-src data:; img-src data:"
    return frame("psl.reporting", "psl report", body, rules, in_page=True)[0]

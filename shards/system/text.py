"""Names from anyone -> text that stays text, in Markdown, pictures and terminals.

Owns the escapes. CSVs and JSON hold names as they are.
"""

from __future__ import annotations

import re
import unicodedata

MAX_CHARS = 80
"""Characters of a name that are shown."""
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Categories of characters that move, hide or turn round what stands near them."""
_MARKUP = re.compile(
    r"([\\`*\[\]|~$@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.)", re.IGNORECASE
)
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def plain(text: str, limit: int = MAX_CHARS) -> str:
    """One line of at most ``limit`` characters, those that cannot be seen escaped.

    What is cut off is three dots.
    """
    shown = "".join(map(_visible, text))
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _visible(char: str) -> str:
    if unicodedata.category(char) not in _INVISIBLE:
        return char
    return char.encode("unicode_escape", "surrogatepass").decode()


def markdown(text: str, limit: int = MAX_CHARS) -> str:
    """``plain`` text for Markdown: no markup, HTML, formula, link or table cell."""
    return _MARKUP.sub(r"\\\1", plain(text, limit)).translate(_ENTITIES)

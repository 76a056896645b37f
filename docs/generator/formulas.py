r"""Turns LaTeX into MathML, which browsers draw without a script: ``$`x_t`$`` in a line, a fence ``math`` on its own.

GitHub draws both spellings as well.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_INLINE = re.compile(r"\$<code>(.+?)</code>\$")
_DISPLAY = re.compile(r'<pre class="math"><code>(.+?)</code></pre>', re.DOTALL)


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Replace the formulas of a page (a hook of MkDocs)."""

    def formula(latex: str, display: str) -> str:
        mathml = convert(unescape(latex).strip(), display=display)
        # A command that is not known is left as it is.
        if "\\" in mathml:
            raise PluginError(f"{page.file.src_uri}: not every command in this formula is known: {latex.strip()}")
        return mathml

    html = _DISPLAY.sub(lambda found: f'<div class="formula">{formula(found[1], "block")}</div>', html)
    return _INLINE.sub(lambda found: formula(found[1], "inline"), html)

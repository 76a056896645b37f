r"""Turns LaTeX into MathML, which browsers draw without a script.

A formula in a line is written ``$`x_t`$``, one on its own as a fence ``math``. GitHub draws both.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_INLINE = re.compile(r"\$<code>([^<]+)</code>\$")
_DISPLAY = re.compile(r'<pre class="math"><code>(.+?)</code></pre>', re.DOTALL)
# Bars grow with what stands around them, unless they are told not to; those of \left and \right have attributes.
_BAR = re.compile(r"<mo>(&#x0007C;|&#x02016;|&#x02225;)</mo>")


def on_page_content(html: str, *, page: Any, **_: Any) -> str:
    """Replace the formulas of a page (a hook of MkDocs)."""

    def formula(latex: str, display: str) -> str:
        mathml = _BAR.sub(r'<mo stretchy="false">\1</mo>', convert(unescape(latex).strip(), display=display))
        # What the converter does not know stays in its output as it was.
        if "\\" in mathml or "<mi>&</mi>" in mathml:
            raise PluginError(f"{page.file.src_uri}: latex2mathml does not know all of this formula: {latex.strip()}")
        return mathml

    html = _DISPLAY.sub(lambda found: f'<div class="formula">{formula(found[1], "block")}</div>', html)
    return _INLINE.sub(lambda found: formula(found[1], "inline"), html)

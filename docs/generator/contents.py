"""Lists, on the first page of the reference, the names that its other pages document."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_MARK = "<!-- names -->"
_ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)


def on_page_markdown(markdown: str, *, config: Any, files: Any, **_: Any) -> str:
    """Replace the mark by the names of every page, in the order of the navigation (a hook of MkDocs)."""
    return markdown.replace(_MARK, "\n\n".join(_pages(str(config["nav"]), files))) if _MARK in markdown else markdown


def _pages(navigation: str, files: Any) -> Iterator[str]:
    for file in sorted(files.documentation_pages(), key=lambda file: navigation.find(file.src_uri)):
        names = _ENTRY.findall(file.content_string)
        if names and not file.src_uri.endswith("underneath.md"):
            title = re.match(r"# (.+)", file.content_string)
            links = " · ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name in names)
            yield f"## [{title[1] if title else file.name}]({file.src_uri.removeprefix('reference/')})\n\n{links}"

"""Docstrings are written for Sphinx's roles; here ``:func:`caa_interp.sweep``` becomes a link to its entry."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr|exc):`~?([\w.]+)`")
_ENTRY = re.compile(r"^::: (\S+)$|^#+ .*\{ #(\S+) \}$", re.MULTILINE)
_LITERAL = re.compile(r"::$", re.MULTILINE)
_PACKAGE = "caa_interp"


class LinkedRoles(griffe.Extension):
    """Turn Sphinx's roles into Markdown: a link to what the reference documents, else the name as code."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite the docstrings of the package, once all of it is read; a literal block keeps one colon."""
        if pkg.path == _PACKAGE:
            entries = _entries(pkg)
            for obj in _objects(pkg):
                if obj.docstring:
                    text = _LITERAL.sub(":", obj.docstring.value)
                    obj.docstring.value = _ROLE.sub(lambda role, obj=obj: _linked(role[1], obj, entries), text)


def _entries(package: griffe.Module) -> dict[str, str]:
    """What the reference documents: the name that it has there, by the path of its definition."""
    pages = Path(__file__).parents[1].glob("reference/*.md")
    names = [a or b for page in pages for a, b in _ENTRY.findall(page.read_text(encoding="utf-8"))]
    return {_defined(name, package): name for name in names}


def _defined(name: str, package: griffe.Module) -> str:
    member: Any = package
    for part in name.removeprefix(f"{_PACKAGE}.").split("."):
        member = member.members.get(part) if isinstance(member, griffe.Module) else None
    return member.target_path if isinstance(member, griffe.Alias) else name


def _objects(obj: griffe.Object) -> Iterator[griffe.Object]:
    yield obj
    for member in obj.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)


def _linked(name: str, obj: griffe.Object, entries: dict[str, str]) -> str:
    """Markdown for a name in the docstring of ``obj``."""
    shown = name.removeprefix(f"{_PACKAGE}.")
    path = _path(name, obj)
    holder, _, member = path.rpartition(".")
    if path in entries:
        return f"[`{shown}`][{entries[path]}]"
    if holder in entries:  # a method of a class
        return f"[`{shown}`][{entries[holder]}.{member}]"
    return f"`{name}`"


def _path(name: str, obj: griffe.Object) -> str:
    """Full path of the definition that a name means where ``obj`` is defined."""
    if name.startswith(f"{_PACKAGE}."):
        package: Any = obj.package
        return _defined(name, package)
    first, dot, rest = name.partition(".")
    try:
        return f"{obj.resolve(first)}{dot}{rest}"
    except griffe.NameResolutionError:
        return name

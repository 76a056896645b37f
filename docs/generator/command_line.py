"""Writes the page of the command line from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from caa_interp import cli

_MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the mark by a section for each command (a hook of MkDocs)."""
    return markdown.replace(_MARK, "\n\n".join(_sections())) if _MARK in markdown else markdown


def _sections() -> Iterator[str]:
    for words, command in _commands(typer.main.get_command(cli.app), ()):
        yield _section(" ".join(words), command)


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        if hasattr(inner, "commands"):
            yield from _commands(inner, (*words, name))
        else:
            yield (*words, name), inner


def _section(name: str, command: Any) -> str:
    text, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
    lines = [f"## `{name}`", text.strip()]
    if example:
        lines.append(f"```console\n$ {example.strip()}\n```")
    parameters = [one for one in command.params if one.name != "help"]
    rows = [f"| {_spelling(one)} | {_cell(one.help or '')} | {_default(one)} |" for one in parameters]
    if rows:
        lines.append("\n".join(["| | | default |", "|---|---|---|", *rows]))
    return "\n\n".join(lines)


def _spelling(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        shown = parameter.metavar or parameter.name.upper()
        return f"`{shown}{' ...' if parameter.nargs == -1 else ''}`"
    return ", ".join(f"`{option}`" for option in parameter.opts)


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value == () or value is False or value == "":
        return ""
    if isinstance(value, tuple):
        value = ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in value)
    return f"`{getattr(value, 'value', value)}`"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").replace("<", "&lt;")

"""The TOML of a study, read with suspicion and written so that it reads back to the same."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caa_interp.errors import InputError

MAX_BYTES = 64 * 1024
# tomllib takes time and memory by the square of a dotted key's length: 64 KiB of `a.a.a` would take a minute.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file of at most 64 KiB; for broken TOML, :class:`InputError` names line and column."""
    what = f"config file {path}"
    if not os.path.isfile(path):
        raise InputError(f"{what}: there is no such file. Check the path.")
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{what}: more than {MAX_BYTES:,} bytes, which is no study. Check that it is the right file.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    if long := _LONG_KEY.search(text):
        line = text.count("\n", 0, long.start()) + 1
        raise InputError(f"{what}: not valid: a key of 64 parts or more (at line {line}). Correct it there.")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        before, _, last = text.rpartition("\n")
        end = f"line {before.count(chr(10)) + (1 if not before else 2)}, column {len(last) + 1}"
        why = str(error).replace("end of document", end)
        raise InputError(f"{what}: not valid TOML: {why}. Correct it there.") from None
    except RecursionError:
        raise InputError(f"{what}: not valid: lists or tables nested too deep. A study needs two levels.") from None
    except ValueError as error:
        raise InputError(f"{what}: not valid: a number with too many digits ({error}). Correct it.") from None


def to_toml(fields: Mapping[str, Any]) -> str:
    """Write texts, numbers, tuples and tables of these, and tuples of tables; what is None is left out."""
    plain: dict[str, Any] = {}
    tables: list[tuple[str, Mapping[str, Any]]] = [("", plain)]
    for name, value in fields.items():
        if isinstance(value, Mapping):
            tables.append((f"\n[{name}]\n", value))
        elif isinstance(value, tuple) and value and isinstance(value[0], Mapping):
            tables += [(f"\n[[{name}]]\n", one) for one in value]
        else:
            plain[name] = value
    return "".join(
        head + "".join(f"{name} = {_value(value)}\n" for name, value in table.items() if value is not None)
        for head, table in tables
    )


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_value(key)} = {_value(one)}' for key, one in value.items() if one is not None)}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A JSON string is a TOML string, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)

"""``caa-interp cache``: what is kept in the cache folder, and its removal."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from caa_interp.cli.options import Json
from caa_interp.cli.output import print_json, print_table, size
from caa_interp.files import cache_folder

Part = Literal["shards", "models", "judge", "published"]  # folders of the cache
_WHAT: dict[Part, str] = {
    "shards": "finished pieces of studies",
    "models": "converted GGUF models",
    "judge": "replies of judges",
    "published": "fetched question sets",
}

app = typer.Typer(no_args_is_help=True, help="What is kept in the cache folder: ls, clear.")


@app.command()
def ls(as_json: Json = False) -> None:
    """List what is kept, with number, size and last use. $CAA_INTERP_CACHE names another folder.

    Example: caa-interp cache ls
    """
    kept = [_kept(part) for part in _WHAT]
    if as_json:
        print_json(kept)
        return
    import pandas as pd

    rows = [{**one, "n_bytes": size(one["n_bytes"]), "last_used": (one["last_used"] or "never")[:10]} for one in kept]
    print_table(pd.DataFrame(rows).rename(columns={"n_bytes": "size"}))


@app.command()
def clear(
    part: Annotated[Part, typer.Argument(help="What to remove.")] = "shards",
    yes: Annotated[bool, typer.Option("--yes", help="Delete replies of judges without asking.")] = False,
) -> None:
    """Remove a part of the cache. Everything can be made again, but replies of judges may cost money.

    Example: caa-interp cache clear shards
    """
    kept = _kept(part)
    if kept["number"] and part == "judge" and not yes:
        question = f"Remove {kept['number']} {_WHAT[part]}, which may have to be paid for again? (--yes does not ask)"
        typer.confirm(question, abort=True, err=True)
    if part == "shards":
        from caa_interp.study.store import clear_cache

        clear_cache()
    elif Path(kept["folder"]).exists():
        shutil.rmtree(kept["folder"])
    typer.echo(f"Removed: {kept['number']} {_WHAT[part]}, {size(kept['n_bytes'])}.")


def _kept(part: Part) -> dict[str, Any]:
    """Row of ``ls`` about a part."""
    folder = cache_folder() / part
    items = [_size_and_use(item) for item in _items(folder)]
    last = max((used for _, used in items), default=None)
    return {
        "part": part,
        "holds": _WHAT[part],
        "number": len(items),
        "n_bytes": sum(n_bytes for n_bytes, _ in items),
        "last_used": None if last is None else datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds"),
        "folder": str(folder),
    }


def _items(folder: Path) -> Iterator[Path]:
    """What a folder holds: each model is a folder, anything else a file."""
    visible = [item for item in folder.iterdir() if not item.name.startswith(".")] if folder.is_dir() else []
    for item in visible:
        if folder.name == "models" or item.is_file():
            yield item
        else:
            yield from _items(item)


def _size_and_use(item: Path) -> tuple[int, float]:
    n_bytes, used = 0, 0.0
    for path in (item, *item.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # another process may have just removed it
            state = path.stat()
            if path.is_file():
                n_bytes += state.st_size
                # Reading changes the time of access, unless the disk does not keep it.
                used = max(used, state.st_atime, state.st_mtime)
    return n_bytes, used

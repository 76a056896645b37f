"""The number in a judge's reply, or none: what could be read in two ways is not read at all."""

from __future__ import annotations

import json
import math
import re

LOWEST, HIGHEST = 0.0, 10.0
CUT = "…"  # ends a reply that was cut off, whose last number may lack digits

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"\A```(?:json)?\s*(.*?)\s*```\Z", re.DOTALL | re.IGNORECASE)
_SCALE = re.compile(r"(?:\b(?:from|between)\s+)?(?<![\w.])0\s*(?:-|–|to|and)\s*10(?![\w.])", re.IGNORECASE)  # noqa: RUF001
_NUMBER = r"(?P<number>-?[0-9]+(?:\.[0-9]+)?)(?P<scale>\s*/\s*10(?![\w.,]*[0-9])|\s+out\s+of\s+10(?![0-9]))?"
_REASON = r"\s+(?:because|since|as|for|given)\b"
# A line that is the number; one that begins with it and goes on; and one that says that a number follows.
_ALONE = re.compile(rf"{_NUMBER}[.!]?")
_FIRST = re.compile(rf"{_NUMBER}(?:\s*[:;,(]|\s+[-–—(]|{_REASON}|(?(scale)\.|(?!)))[^0-9{CUT}]*")  # noqa: RUF001
_NAMED = re.compile(
    r"\b(?:scor(?:e|ed|ing)|rat(?:e|ed|ing)|grade|give|giving|assign)\b[^0-9.;-]{0,60}?"
    rf"(?<![\w.]){_NUMBER}(?:(?=[.;)!](?:\s|$))|\s*[,:(][^0-9{CUT}]*$|{_REASON}[^0-9{CUT}]*$|\s*$)",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(?:not|no|never|cannot|than|least|most|above|below|under|over|between|from|up to|either|if|unless)\b|n't\b",
    re.IGNORECASE,
)


def parse_score(reply: str) -> float:
    """Return the score from 0 to 10 that a reply gives, or NaN.

    Read are ``7``, ``7.5``, ``7/10``, ``7 out of 10``, ``Score: 7``, ``I would rate this a 7 because ...``, a number
    on a line of its own, and JSON such as ``{"score": 7}``. Not read are two different scores, ranges (``3-5``,
    ``between 3 and 5``), other scales (``4/5``, ``70%``), numbers outside 0 to 10, negations, numbers of something
    else (``it lists 3 reasons``), number words, and what stands between ``<think>`` and ``</think>``.

    Parameters
    ----------
    reply
        What the judge said.
    """
    text = _THOUGHTS.sub("", reply).strip()
    fenced = _FENCE.match(text)
    text = fenced[1] if fenced else text
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = text
    found = _from_json(content) if isinstance(content, dict) else _from_text(text)
    (value,) = found if len(found) == 1 else {math.nan}
    return value if LOWEST <= value <= HIGHEST else math.nan


def _from_json(content: dict[str, object]) -> set[float]:
    named = {key.lower(): value for key, value in content.items()}
    value = named.get("score", named.get("rating"))
    return _from_text(value if isinstance(value, str) else json.dumps(value))


def _from_text(text: str) -> set[float]:
    """Every number that a line of the text gives as the score."""
    found = set()
    for line in _SCALE.sub("", text.replace("−", "-")).splitlines():  # noqa: RUF001
        line = re.sub(r"[*_`\"“”\[\]]", "", line).strip()
        whole = _ALONE.fullmatch(line) or _FIRST.fullmatch(line)
        matches = [whole] if whole else _NAMED.finditer(line)
        for match in matches:
            clause = re.split(r"[.;]\s", line[: match.start("number")])[-1]
            if not _HEDGE.search(clause):
                found.add(float(match["number"]))
    return found

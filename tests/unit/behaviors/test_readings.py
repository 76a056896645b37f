"""Sheets for blind readers tell nothing but the pairs, and what is kept of their reading is what the datasheet says."""

import re
from pathlib import Path

import pandas as pd
import pytest

import caa_interp as caa
from benchmarks import reading

KEPT = pd.read_csv(reading.TABLE)


@pytest.fixture
def sheets(tmp_path: Path) -> Path:
    reading.make_sheets(tmp_path, seed=7)
    return tmp_path


def answered(folder: Path, reader: str, labels: pd.Series) -> None:
    key = pd.read_csv(folder / "key.csv")
    (folder / reader).mkdir()
    for name, rows in key.assign(label=labels, naturalness=4, remark="").groupby("behavior"):
        rows[["number", "label", "naturalness", "remark"]].to_csv(folder / reader / f"{name}.csv", index=False)


def test_a_sheet_shows_each_pair_and_neither_ids_nor_sides(sheets: Path) -> None:
    key = pd.read_csv(sheets / "key.csv")
    assert key.groupby("behavior").size().to_dict() == dict.fromkeys(caa.load_behaviors(), reading.N_PAIRS)
    assert 60 < (key["key"] == 1).sum() < 132  # of 192, in random order
    for name, behavior in caa.load_behaviors().items():
        text = (sheets / f"{name}.md").read_text(encoding="utf-8")
        pairs = {pair.id: pair for pair in (*behavior.train, *behavior.test)}
        blocks = re.split(r"^## \d+$", text, flags=re.MULTILINE)[1:]
        for (_, row), block in zip(key[key["behavior"] == name].iterrows(), blocks, strict=True):
            pair = pairs[row["id"]]
            first, second = (pair.positive, pair.negative)[:: 1 if row["key"] == 1 else -1]
            assert block == f"\n\nUSER: {pair.question}\n\nANSWER 1: {first}\n\nANSWER 2: {second}\n\n"
        assert not any(pair_id in text for pair_id in pairs)
        assert "positive" not in text.splitlines()[0]


def test_sheets_depend_on_the_seed_alone(sheets: Path, tmp_path: Path) -> None:
    for seed, same in ((7, True), (8, False)):
        reading.make_sheets(tmp_path / str(seed), seed=seed)
        assert ((tmp_path / str(seed) / "key.csv").read_bytes() == (sheets / "key.csv").read_bytes()) is same


def test_labels_are_compared_with_the_key(sheets: Path) -> None:
    key = pd.read_csv(sheets / "key.csv")["key"]
    answered(sheets, "all-right", key)
    answered(sheets, "all-wrong", 3 - key)
    summary = reading.summary(reading.read_answers(sheets)).set_index(["behavior", "reader"])
    assert summary.loc[("all", "all-right"), ["n", "right", "naturalness"]].tolist() == [192, 1.0, 4.0]
    assert summary.loc[("refusal", "all-wrong"), ["n", "right"]].tolist() == [24, 0.0]


def test_a_pair_without_a_label_is_told(sheets: Path) -> None:
    answered(sheets, "one", pd.read_csv(sheets / "key.csv")["key"])
    file = sheets / "one" / "refusal.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(SystemExit, match="1 pairs have no label"):
        reading.read_answers(sheets)


def test_the_kept_sample_is_drawn_again_pair_by_pair(tmp_path: Path) -> None:
    reading.make_sheets(tmp_path, reading.SEED)
    key = pd.read_csv(tmp_path / "key.csv")[["behavior", "id", "key"]]
    for _, rows in KEPT.groupby("reader"):
        pd.testing.assert_frame_equal(rows[["behavior", "id", "key"]].reset_index(drop=True), key)
    text = (reading.TABLE.parent / "README.md").read_text(encoding="utf-8")
    assert f"--seed {reading.SEED}" in text


def test_the_kept_reading_meets_what_the_datasheet_says() -> None:
    assert KEPT.groupby(["reader", "behavior"]).size().eq(reading.N_PAIRS).all()
    assert KEPT["reader"].nunique() == 2
    ids = {pair.id for one in caa.load_behaviors().values() for pair in (*one.train, *one.test)}
    assert set(KEPT["id"]) <= ids
    summary = reading.summary(KEPT)
    assert (summary["right"] >= 0.98).all()
    assert (summary["naturalness"] >= 4.2).all()
    text = (reading.TABLE.parent / "README.md").read_text(encoding="utf-8")
    for name, rows in summary.groupby("behavior"):
        first, second = (f"{value:.2f}" for value in rows.sort_values("reader")["naturalness"])
        assert f"| {name} | {first} | {second} |" in text

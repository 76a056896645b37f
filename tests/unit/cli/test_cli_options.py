"""Lists and ranges of the command line, and its files."""

import json

import pandas as pd
import pytest
import typer

from caa_interp.cli import options, output
from caa_interp.errors import InputError


@pytest.mark.parametrize(
    ("text", "layers"),
    [("3", (3,)), ("10,12-14", (10, 12, 13, 14)), (" 1 , 2 ", (1, 2)), ("5-5", (5,)), ("2,0-1", (2, 0, 1))],
)
def test_layers(text, layers):
    assert options.read_layers(text) == layers


@pytest.mark.parametrize("text", ["", "x", "1,", "-1", "3-1", "1.5", "1-2-3", "²", "0-10000000000"])
def test_what_is_no_list_of_layers(text):
    with pytest.raises(typer.BadParameter, match="such as 10,12-14"):
        options.read_layers(text)


@pytest.mark.parametrize(
    ("text", "multipliers"), [("-1,0,1", (-1.0, 0.0, 1.0)), ("2", (2.0,)), (" .5 , -1e1 ", (0.5, -10.0))]
)
def test_multipliers(text, multipliers):
    assert options.read_multipliers(text) == multipliers


@pytest.mark.parametrize("text", ["", "1,,2", "one"])
def test_what_is_no_list_of_multipliers(text):
    with pytest.raises(typer.BadParameter, match="such as -1,0,1"):
        options.read_multipliers(text)


def test_names():
    assert options.read_names("refusal, survival-instinct") == ("refusal", "survival-instinct")


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path):
    path = tmp_path / "v.safetensors"
    output.check_target(path, (".safetensors",), force=False)
    path.touch()
    output.check_target(path, (".safetensors",), force=True)
    with pytest.raises(InputError, match=r"v\.safetensors already exists\. Name another file, or .*--force"):
        output.check_target(path, (".safetensors",), force=False)


def test_a_file_has_one_of_the_endings(tmp_path):
    output.check_target(tmp_path / "folder", (), force=False)
    with pytest.raises(typer.BadParameter, match=r"'t\.xlsx' must end in \.parquet or \.csv"):
        output.check_target(tmp_path.joinpath("t.xlsx").relative_to(tmp_path), (".parquet", ".csv"), force=True)


def test_records_have_null_for_what_is_missing_and_all_digits():
    table = pd.DataFrame({"a": [0.1234567890123, float("nan")], "b": ["x", None]})
    assert output.records(table) == [{"a": 0.1234567890123, "b": "x"}, {"a": None, "b": None}]


def test_json_has_null_for_what_is_not_finite(capsys):
    output.print_json({"a": [float("nan"), 1.5], "b": -float("inf")})
    assert json.loads(capsys.readouterr().out) == {"a": [None, 1.5], "b": None}


def test_json_keeps_letters_as_they_are(capsys):
    output.print_json({"token": "\N{OPEN BOX}naïve"})
    printed = capsys.readouterr().out
    assert "\N{OPEN BOX}naïve" in printed
    assert json.loads(printed) == {"token": "\N{OPEN BOX}naïve"}


def test_a_table_stands_left_for_texts_and_right_for_numbers(capsys):
    output.print_table(pd.DataFrame({"name": ["a", "longer"], "n": [1, 200], "share": [0.5, float("nan")]}))
    lines = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in lines] == ["name    n   share", "a        1 0.5", "longer 200"]


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 B"), (999, "999 B"), (53_512, "53.5 kB"), (5.4e8, "540 MB"), (2.5e10, "25 GB")]
)
def test_sizes(n_bytes, text):
    assert output.size(n_bytes) == text

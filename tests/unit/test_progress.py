"""Progress: lines in a log, a bar on a real terminal, a widget in a real notebook."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import nbformat
import pytest
from nbclient import NotebookClient

from caa_interp.progress import counting, track


@pytest.fixture
def clock(monkeypatch):
    """Seconds since the beginning; time passes only where a test lets it."""
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


@pytest.fixture
def lines(monkeypatch, capsys):
    """What was written to a log since it was last asked; nothing goes to stdout, and nothing is drawn over."""
    monkeypatch.delitem(sys.modules, "ipykernel.zmqshell", raising=False)

    def written():
        out, errors = capsys.readouterr()
        assert out == ""
        assert "\r" not in errors
        return errors.splitlines()

    return written


def test_a_log_has_a_line_at_the_beginning_one_in_half_a_minute_and_one_at_the_end(clock, lines):
    said = []
    for _ in track(range(40), "Sweeping", True):
        said += [(clock[0], line) for line in lines()]
        clock[0] += 4
    said += [(clock[0], line) for line in lines()]
    assert said == [
        (0, "Sweeping:   0% 0/40 [00:00<?, ?it/s]"),
        (32, "Sweeping:  20% 8/40 [00:32<02:08,  4.00s/it]"),
        (64, "Sweeping:  40% 16/40 [01:04<01:36,  4.00s/it]"),
        (96, "Sweeping:  60% 24/40 [01:36<01:04,  4.00s/it]"),
        (128, "Sweeping:  80% 32/40 [02:08<00:32,  4.00s/it]"),
        (160, "Sweeping: 100% 40/40 [02:40<00:00,  4.00s/it]"),
    ]


def test_what_was_done_before_counts_neither_for_the_rate_nor_for_the_time_left(clock, lines):
    with counting(40, "Study", True, unit="piece") as bar:
        bar.initial += 30
        bar.update(30)
        clock[0] += 60
        bar.update()
    assert lines() == ["Study:   0% 0/40 [00:00<?, ?piece/s]", "Study:  78% 31/40 [01:00<09:00, 60.00s/piece]"]


@pytest.mark.parametrize(
    ("items", "total", "said"),
    [([4, 5], None, "2/2"), (iter("ab"), 2, "2/2"), ({"a": 1, "b": 2}.items(), None, "2/2"), (iter("ab"), None, "2it")],
)
def test_all_items_come_in_order_whether_their_number_is_known_or_not(clock, lines, items, total, said):
    expected = list(items) if not hasattr(items, "__next__") else ["a", "b"]
    assert list(track(items, "Reading", True, total)) == expected
    first, last = lines()
    assert first.startswith("Reading: ")
    assert said in last


def test_nothing_is_said_unless_it_is_wanted(lines):
    assert list(track("ab", "Reading", False)) == ["a", "b"]
    with counting(2, "Reading", False) as bar:
        assert bar is None
    assert lines() == []


def test_a_loop_within_a_loop_that_is_shown_is_not_and_the_next_one_is(clock, lines):
    for _ in track("ab", "Outer", True):
        assert list(track("cd", "Inner", True)) == ["c", "d"]
        with counting(1, "Inner", True) as bar:
            assert bar is None
    list(track("ef", "Next", True))
    assert [line.split(":")[0] for line in lines()] == ["Outer", "Outer", "Next", "Next"]


def test_an_error_that_somebody_keeps_hides_no_later_loop(lines):
    """As a notebook keeps the last one, with the frames it went through and the loop that was left in them."""

    def failing():
        for _ in track([1, 2], "Failing", True):
            raise ValueError("it failed")

    with pytest.raises(ValueError, match="it failed") as kept:
        failing()
    assert list(track([1], "Sweeping", True)) == [1]
    assert any(line.startswith("Sweeping") for line in lines())
    del kept


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_is_passed_on_the_last_line_says_how_far_it_was_and_the_next_loop_is_shown(clock, lines, error):
    def broken():
        for item in track("abc", "Broken", True):
            if item == "b":
                raise error

    with pytest.raises(error):
        broken()
    with pytest.raises(error), counting(3, "Stopped", True):
        raise error
    for _ in track("abc", "Left early", True):
        break
    list(track("a", "Next", True))
    names = [line.split(":")[0] for line in lines()]
    assert names == ["Broken", "Broken", "Stopped", "Left early", "Next", "Next"]


SCRIPT = """
import sys
from caa_interp.progress import track
for number in track(range(40), "Sweeping", True):
    for _ in track(range(2), "Inner", True):
        pass
    if sys.argv[1:] and number == 10:
        raise SystemExit("it failed")
print("a result")
"""


@pytest.mark.parametrize(("arguments", "code", "end"), [((), 0, "40/40"), (("fail",), 1, "10/40")])
def test_a_terminal_has_one_bar_and_results_go_to_stdout(arguments, code, end):
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *arguments]
    process = subprocess.Popen(command, stdin=its, stdout=subprocess.PIPE, stderr=its, start_new_session=True)
    os.close(its)
    results, _ = process.communicate()
    shown = os.read(ours, 65536).decode()  # less than a terminal holds
    os.close(ours)
    assert process.returncode == code
    assert results.decode() == ("" if code else "a result\n")
    assert "Inner" not in shown
    assert "Sweeping:   0%|" in shown.split("\r")[1]
    assert shown.count("\n") == (2 if code else 1)
    bar = shown.split("\n")[0].rstrip("\r").split("\r")[-1]
    assert end in bar
    assert "█" in bar


NOTEBOOK = """
from caa_interp.progress import track
for _ in track(range(3), "Sweeping", True):
    for _ in track(range(2), "Inner", True):
        pass
for number in track(range(3), "Failing", True):
    if number == 1:
        raise ValueError("it failed")
"""


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_has_a_widget_for_each_loop_or_a_bar_of_text(widgets):
    missing = "" if widgets else "\nimport sys; sys.modules['ipywidgets'] = None"
    setup = f"import warnings; warnings.simplefilter('error'){missing}"
    cells = [nbformat.v4.new_code_cell(source) for source in (setup, NOTEBOOK)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True).execute()
    *shown, error = notebook.cells[1].outputs
    assert error.ename == "ValueError"
    if widgets:
        texts = [output.data["text/plain"] for output in shown]
        assert all("application/vnd.jupyter.widget-view+json" in output.data for output in shown)
    else:
        texts = "".join(output.text for output in shown).strip().split("\n")
        assert {output.name for output in shown} == {"stderr"}
    assert [text.lstrip("\r").split(":")[0] for text in texts] == ["Sweeping", "Failing"]

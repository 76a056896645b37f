"""Progress: the words, lines in a log, a bar on a real terminal, one output in a real notebook."""

import os
import pty
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from caa_interp import progress
from caa_interp.progress import Count, counting, track


class Clock:
    """Stands still, but for what a test lets pass."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def lines(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


# Words


@pytest.mark.parametrize(
    ("seconds", "n", "said"),
    [
        (0.5, 100, "200 a second"),
        (10, 99, "9.9 a second"),
        (10, 100, "10 a second"),
        (60, 60, "1.0 a second"),
        (60, 59, "59 a minute"),
        (232, 12, "3.1 a minute"),
        (7200, 12, "6.0 an hour"),
        (7200, 1, "0.5 an hour"),
    ],
)
def test_a_rate_is_said_in_a_unit_of_time_in_which_it_is_at_least_one(clock, seconds, n, said):
    count = Count(None, "Sweeping")
    clock.now += seconds
    count.advance(n)
    assert count.rate == pytest.approx(n / seconds)
    assert count.speed() == [said]


@pytest.mark.parametrize(
    ("rate", "said"),
    [
        (100, "about 1 s left"),
        (1, "about 28 s left"),
        (1 / 2, "about 56 s left"),
        (1 / 10, "about 5 min left"),
        (1 / 20, "about 9 min left"),
        (1 / 600, "about 4 h 40 min left"),
    ],
)
def test_the_time_left_is_that_of_the_rest_at_the_rate_so_far(clock, rate, said):
    count = Count(40, "Sweeping")
    clock.now += 12 / rate
    count.advance(12)
    assert count.left == pytest.approx(28 / rate)
    assert count.speed()[1] == said


def test_the_time_left_falls_while_nothing_is_done_and_never_below_zero(clock):
    count = Count(3, "Sweeping")
    clock.now += 100
    count.advance()
    assert (count.rate, count.left) == (0.01, 200)
    clock.now += 150
    assert (count.rate, count.left) == (0.01, 50)
    clock.now += 100
    assert (count.rate, count.left) == (0.01, 0)


def test_what_was_there_before_counts_neither_for_the_rate_nor_for_the_time_left(clock):
    count = Count(40, "Study", "shards")
    count.already(30)
    assert (count.amount(), count.rate, count.left) == ("30 of 40 shards", None, None)
    clock.now += 60
    count.advance()
    count.already(4)
    assert (count.rate, count.left) == (1 / 60, 300)
    assert count.line() == "Study: 35 of 40 shards (87 %), 1.0 a minute, about 5 min left"
    assert count.result() == "Study: 35 of 40 shards in 1 min, 1.0 a minute, 34 done before"


def test_all_there_before_gives_no_rate():
    count = Count(40, "Study", "shards")
    count.already(40)
    assert count.line() == "Study: 40 of 40 shards (100 %)"
    assert count.result() == "Study: 40 of 40 shards in 0 s, 40 done before"


def test_a_total_that_is_not_known_or_nothing(clock):
    count = Count(None, "Reading")
    clock.now += 2
    count.advance(3)
    assert count.line() == "Reading: 3, 1.5 a second"
    assert Count(0, "Reading").line() == "Reading: 0 of 0"


def test_one_hundred_percent_is_all(clock):
    count = Count(1000, "Reading")
    count.advance(999)
    assert "(99 %)" in count.line()


# Lines in a log


def test_a_log_has_a_line_at_the_beginning_a_few_between_and_one_at_the_end(clock, capsys):
    said = []
    for _ in track(range(40), "Sweeping", True):
        clock.now += 4
        said += [(clock.now - Clock.now, line) for line in lines(capsys)]
    said += [("end", line) for line in lines(capsys)]
    assert said == [
        (4, "Sweeping: 0 of 40"),
        # Three items are done when the fourth is on its way.
        (16, "Sweeping: 3 of 40 (7 %), 15 a minute, about 2 min left"),
        (48, "Sweeping: 11 of 40 (27 %), 15 a minute, about 2 min left"),
        (80, "Sweeping: 19 of 40 (47 %), 15 a minute, about 1 min left"),
        (112, "Sweeping: 27 of 40 (67 %), 15 a minute, about 52 s left"),
        (144, "Sweeping: 35 of 40 (87 %), 15 a minute, about 20 s left"),
        ("end", "Sweeping: 40 of 40 in 3 min, 15 a minute"),
    ]


def test_a_slow_item_is_said_when_it_is_done_and_the_last_one_once(clock, capsys):
    with counting(3, "Study", True, unit="shards") as count:
        for name in ("sweep", "costs", "lens"):
            clock.now += 600
            count.advance(note=name)
    assert lines(capsys) == [
        "Study: 0 of 3 shards",
        "Study: 1 of 3 shards (33 %), 6.0 an hour, about 20 min left; sweep",
        "Study: 2 of 3 shards (66 %), 6.0 an hour, about 10 min left; costs",
        "Study: 3 of 3 shards in 30 min, 6.0 an hour",
    ]


def test_a_total_may_be_given_for_items_that_do_not_know_it(capsys):
    assert list(track(iter("ab"), "Reading", True, total=2)) == ["a", "b"]
    assert lines(capsys) == ["Reading: 0 of 2", "Reading: 2 of 2 in 0 s"]
    assert list(track({"a": 1}.items(), "Reading", True)) == [("a", 1)]
    assert lines(capsys) == ["Reading: 0 of 1", "Reading: 1 of 1 in 0 s"]
    assert list(track(iter("ab"), "Reading", True)) == ["a", "b"]
    assert lines(capsys) == ["Reading: 0", "Reading: 2 in 0 s"]


def test_nothing_is_said_unless_it_is_wanted(clock, capsys):
    assert list(track("ab", "Reading", False)) == ["a", "b"]
    with counting(2, "Reading", False) as count:
        clock.now += 100
        count.already(1)
        count.advance(note="b")
    assert count.done == 2
    assert lines(capsys) == []


def test_a_loop_within_a_loop_that_is_shown_is_not_and_the_next_one_is(capsys):
    for _ in track("ab", "Outer", True):
        assert list(track("cd", "Inner", True)) == ["c", "d"]
        with counting(1, "Inner", True) as count:
            count.advance()
    list(track("ef", "Next", True))
    assert [line.split(":")[0] for line in lines(capsys)] == ["Outer", "Outer", "Next", "Next"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_more_is_said_after_an_error_and_the_next_loop_is_shown(capsys, error):
    with pytest.raises(error):  # noqa: PT012
        for item in track("abc", "Broken", True):
            if item == "b":
                raise error
    with pytest.raises(error), counting(3, "Broken", True):
        raise error
    for _ in track("abc", "Left early", True):
        break
    list(track("a", "Next", True))
    assert lines(capsys) == [
        "Broken: 0 of 3",
        "Broken: 0 of 3",
        "Left early: 0 of 3",
        "Next: 0 of 1",
        "Next: 1 of 1 in 0 s",
    ]


def test_a_log_is_no_terminal_with_forced_colors_either(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    list(track("a", "Reading", True))
    assert lines(capsys) == ["Reading: 0 of 1", "Reading: 1 of 1 in 0 s"]


# A bar on a terminal

SCRIPT = """
import os, signal, sys, threading, time
from caa_interp.progress import counting, track

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it

def work(error):
    with counting(40, "Study [of/two]", True, unit="shards") as count:
        count.already(12)
        for _ in range(3):
            for _ in track(range(2), "Inner", True):
                time.sleep(0.05)
            print("a result")
            print("a warning", file=sys.stderr)
            count.advance(note="[/sweep]")
        if error == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        if error:
            raise SystemExit("it failed")

try:
    work(sys.argv[1] if sys.argv[1:] else "")
finally:
    time.sleep(0.3)  # rich's thread goes when it wakes up, ten times a second
    print("threads", threading.active_count())
"""


def on_terminal(*arguments, output=None, term="xterm-256color"):
    """What a script shows on a pseudo-terminal 100 columns wide, and its exit code; stdout may go elsewhere."""
    ours, its = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments],
        stdin=its,
        stdout=its if output is None else output,
        stderr=its,
        env={**environment, "TERM": term, "COLUMNS": "100"},
        start_new_session=True,
    )
    os.close(its)
    shown = b""
    while True:
        try:
            content = os.read(ours, 65536)
        except OSError:  # how Linux says that nobody writes any more
            content = b""
        if not content:
            break
        shown += content
    os.close(ours)
    return shown.decode(), process.wait(timeout=60)


def plain(shown):
    """The text of what was shown, without colors and without what was drawn over."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    return [line.split("\r")[-1] for line in text.replace("\r\n", "\n").removesuffix("\n").split("\n")]


def test_a_terminal_has_one_bar_with_all_that_is_known():
    shown, code = on_terminal()
    assert code == 0
    *printed, bar, threads = plain(shown)
    assert printed == ["a result", "a warning"] * 3
    assert re.fullmatch(
        r"Study \[of/two\] [━╸╺]{20} 15 of 40 shards  0:00:0\d  [\d.]+ a second, about \d+ s left  \[/sweep\] *", bar
    )
    assert threads == "threads 1"
    assert "Inner" not in shown
    assert "0 of 40 shards" in shown  # drawn before the first was done
    assert shown.rindex("\x1b[?25l") < shown.rindex("\x1b[?25h")  # the cursor is there again


def test_results_go_to_stdout_where_it_is_a_file(tmp_path):
    with (tmp_path / "results").open("wb") as file:
        shown, code = on_terminal(output=file)
    assert code == 0
    assert (tmp_path / "results").read_text() == "a result\n" * 3 + "threads 1\n"
    assert "a result" not in shown
    assert "15 of 40 shards" in shown


@pytest.mark.parametrize(("error", "code", "end"), [("error", 1, "it failed"), ("interrupt", -2, "KeyboardInterrupt")])
def test_an_error_and_ctrl_c_leave_the_bar_where_it_was_and_the_cursor_shown(error, code, end):
    shown, found = on_terminal(error)
    assert found == code
    lines = plain(shown)
    after = lines[max(number for number, line in enumerate(lines) if "15 of 40" in line) + 1 :]
    assert after[0] == "threads 1"
    assert after[-1] == end
    assert not any("Study" in line or "rich" in line for line in after)
    assert shown.rindex("\x1b[?25l") < shown.rindex("\x1b[?25h") < shown.rindex("threads")


def test_a_terminal_that_cannot_draw_gets_lines():
    shown, _ = on_terminal(term="dumb")
    assert "\x1b" not in shown
    assert shown.splitlines()[0] == "Study [of/two]: 0 of 40 shards"


# A notebook


class Output:
    """What ``IPython.display.display`` returns, as far as it is used."""

    def __init__(self):
        self.shown = []

    def display(self, *shown, **options):
        self.shown.append((shown, options))
        return self

    def update(self, *shown, **options):
        self.shown.append((shown, options))


@pytest.fixture
def output(monkeypatch):
    output = Output()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("IPython.display.display", output.display)
    return output


def words(box):
    description, bar, label = box.children
    return description.value, bar.value, bar.max, label.value


def test_a_widget_is_updated_in_place_and_leaves_a_text(output, clock, capsys):
    with counting(40, "Study", True, unit="shards") as count:
        (((box,), options),) = output.shown
        assert options == {"display_id": True}
        assert words(box) == ("Study", 0, 40, "0 of 40 shards")
        count.already(12)
        assert words(box) == ("Study", 12, 40, "12 of 40 shards")
        clock.now += 60
        count.advance(note="sweep")
        assert words(box) == ("Study", 13, 40, "13 of 40 shards, 1.0 a minute, about 27 min left, sweep")
        assert len(output.shown) == 1
    text = "Study: 13 of 40 shards in 1 min, 1.0 a minute, 12 done before"
    assert output.shown[1:] == [(({"text/plain": text},), {"raw": True})]
    assert box.comm is None  # closed
    assert [part.comm for part in box.children] == [None] * 3
    assert lines(capsys) == []


def test_a_quick_loop_sends_the_notebook_few_messages(output, clock):
    with counting(100_000, "Reading", True) as count:
        (((box,), _),) = output.shown
        changes = []
        box.children[2].observe(changes.append, "value")
        for _ in range(10_000):
            clock.now += 0.001
            count.advance()
    assert 45 <= len(changes) <= 60


def test_what_comes_at_once_is_shown_at_once(output, clock):
    with counting(40, "Study", True) as count:
        (((box,), _),) = output.shown
        clock.now += 60
        for _ in range(8):
            count.advance()
        assert words(box)[1] == 8


def test_a_widget_without_a_total(output, clock):
    for number, _ in enumerate(track(iter("abc"), "Reading", True)):
        clock.now += 1
        (((box,), _),) = output.shown
        assert words(box)[3].startswith(str(number))
    assert output.shown[1][0] == ({"text/plain": "Reading: 3 in 3 s, 1.0 a second"},)


def test_an_error_leaves_a_text_in_the_notebook_and_no_widget(output, clock):
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        for _ in track(range(40), "Sweeping", True):
            clock.now += 30
            if clock.now > Clock.now + 60:
                raise KeyboardInterrupt
    assert output.shown[1][0] == ({"text/plain": "Sweeping: 2 of 40 in 2 min, 2.0 a minute"},)
    assert output.shown[0][0][0].comm is None


def test_a_notebook_without_widgets_gets_lines(output, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    list(track("a", "Reading", True))
    assert lines(capsys) == ["Reading: 0 of 1", "Reading: 1 of 1 in 0 s"]
    assert output.shown == []


def test_a_saved_notebook_holds_one_output_a_loop_and_the_kernel_no_widget():
    loops = """
from caa_interp.progress import track
for _ in track(range(300), "Sweeping", True):
    pass
for number in track(range(3), "Failing", True):
    if number == 1:
        raise ValueError("it failed")
"""
    left = "from ipywidgets.widgets import widget; print(len(widget._instances))"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (loops, left)])
    NotebookClient(notebook, timeout=120, kernel_name="python3", allow_errors=True).execute()
    first, second, error = notebook.cells[0].outputs
    assert re.fullmatch(r"Sweeping: 300 of 300 in \d s, \d+ a second", first.data.pop("text/plain"))
    assert re.fullmatch(r"Failing: 1 of 3 in 0 s, \d+ a second", second.data.pop("text/plain"))
    assert (first.data, second.data) == ({}, {})
    assert error.ename == "ValueError"
    assert [output.text for output in notebook.cells[1].outputs] == ["0\n"]

"""The explorer in a real JupyterLab: answers appear token by token, and nothing is fetched from outside."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "explorer.png"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CELLS = [
    """import caa_interp as caa

model = caa.load_model()
vectors = {}
for name in ("optimism", "sycophancy"):
    pairs = caa.load_behavior(name).train[::6]
    vectors[name] = caa.extract_vector(model, pairs, format="text", behavior=name)""",
    'explorer = caa.explore(model, vectors, pairs=caa.load_behavior("optimism").test[::10])\nexplorer',
    "print(explorer.answers.to_json(orient='records'))",
]
# Keeps every state of the answers' texts that the page ever shows.
WATCH = """() => {
  window.seen = [];
  const note = () => document.querySelectorAll(".caa-text").forEach((text, place) => {
    const states = window.seen[place] ??= [];
    if (states.at(-1) !== text.textContent) states.push(text.textContent);
  });
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""
N_TOKENS = 100

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Address of a notebook in a JupyterLab of its own, which ends with the test."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "explorer.ipynb")
    settings = tmp_path / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    folders = (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "JUPYTERLAB_WORKSPACES_DIR",
        "IPYTHONDIR",
    )
    environment = os.environ | {name: str(tmp_path / name) for name in folders}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), "JUPYTER_TOKEN": token}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={tmp_path}"]
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"{address}/api")
            yield f"{address}/doc/tree/explorer.ipynb?token={token}"
        finally:
            server.terminate()  # it shuts its kernels down first
            try:
                server.wait(timeout=60)
            finally:
                server.kill()


def wait_for(address: str) -> None:
    for _ in range(240):
        try:
            urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail("JupyterLab did not start")


@pytest.fixture
def page(lab: str, tmp_path: Path) -> Iterator[Any]:
    """Page 1400 pixels wide, with the notebook open and its kernel ready; ``page.complaints`` must stay empty."""
    with sync_api.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 980})
            page.set_default_timeout(180_000)
            page.complaints = []
            page.on("console", lambda line: line.type == "error" and page.complaints.append(line.text))
            page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.on("request", lambda request: from_outside(request.url) and page.complaints.append(request.url))
            page.goto(lab)
            page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
            yield page
            page.screenshot(path=tmp_path / "last.png")  # for whoever looks into a failure
        finally:
            browser.close()


def from_outside(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:"))


def run_cell(page: Any, number: int) -> Any:
    cell = page.locator(".jp-Notebook .jp-CodeCell").nth(number)
    # JupyterLab drops the first keys after it has opened a notebook, without a sign of when that is over.
    while cell.locator(".jp-InputPrompt").text_content() == "[ ]:":
        cell.locator(".jp-InputArea-editor").click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(2000)
        # On a busy machine it asks for the kernel, as the cell came before the session was ready.
        if (select := page.locator(".jp-Dialog button", has_text="Select")).is_visible():
            select.click()
    return cell


def test_answers_appear_token_by_token(page: Any) -> None:
    run_cell(page, 0)
    cell = run_cell(page, 1)
    cards = cell.locator(".caa-card")
    cards.nth(2).wait_for()
    page.evaluate(WATCH)

    def choose(multiplier: str) -> None:
        readout = cell.locator(".widget-slider", has_text="Multiplier").first.locator(".widget-readout")
        readout.fill(multiplier)
        readout.press("Enter")

    # A choice begins a strip of answers; the button begins it anew.
    choose("3")
    page.wait_for_function("seen[2]?.length > 3")
    page.evaluate("seen = []")
    cell.get_by_role("button", name="Generate").click()
    cell.get_by_text("tokens, ").nth(2).wait_for()
    cell.get_by_text("effect on 5 pairs: more").wait_for()
    seen = page.evaluate("seen")
    assert len(seen) == 3
    for card, states in zip(cards.all(), seen, strict=True):
        whole = card.locator(".caa-text").text_content()
        assert states[-1] == whole
        assert len(states) > N_TOKENS / 4
        assert all(whole.startswith(state.removesuffix("▍")) for state in states)
    assert "multiplier +3" in cards.nth(2).text_content()

    # Hovering a token shows what the model expects in its place.
    page.locator(".jp-Notebook .jp-CodeCell").nth(1).evaluate("cell => cell.scrollIntoView()")
    token = cards.nth(2).locator(".caa-token").nth(6)
    token.hover()
    read = token.evaluate("token => getComputedStyle(token, '::after').content")
    assert "unsteered" in read
    page.wait_for_timeout(1000)
    page.screenshot(path=PICTURE)

    # A pinned answer stays. Stop, in the middle of other answers; the unsteered one is the same.
    cell.get_by_role("button", name="Pin").nth(2).click()
    choose("-6")
    page.wait_for_function("seen[2].at(-1).endsWith('▍') && seen[2].at(-1).length > 20")
    cell.get_by_role("button", name="Stop").click()
    cell.get_by_text("Stopped.").wait_for()
    stopped = cards.nth(2).locator(".caa-text").text_content()
    page.wait_for_timeout(1500)
    texts = [card.locator(".caa-text").text_content() for card in cards.all()]
    assert texts[1:] == [seen[1][-1], stopped, seen[2][-1]]

    # The kernel holds what the page shows.
    printed = run_cell(page, 2).locator(".jp-OutputArea-output pre")
    rows = json.loads(printed.text_content())
    assert [row["answer"] for row in rows] == texts
    assert [row["multiplier"] for row in rows] == [6, 0, -6, 3]

    # What was written before is there at once.
    choose("3")
    page.wait_for_function("document.querySelectorAll('.caa-card').length == 3")
    assert [card.locator(".caa-text").text_content() for card in cards.all()] == [states[-1] for states in seen]

    # A failure is told.
    cell.get_by_role("textbox", name="Prompt").fill(" ")
    cell.get_by_role("button", name="Generate").click()
    cell.get_by_text("InputError: prompt: ' ' is not a text; give a non-empty string").wait_for()
    assert page.complaints == []

"""Published files: downloaded once, whole and right or not at all. The server runs in the test."""

import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from caa_interp.behaviors import downloads as module
from caa_interp.behaviors.downloads import ROOTS, DownloadError, fetch, published_digests
from caa_interp.errors import CAAError, InputError

CONTENT = b"".join(b'{"question": "Question %d?"}\n' % number for number in range(5000))
ROOT = "owner/name/0123/folder"
PATH = f"{ROOT}/tidiness.jsonl"
# The 23 files of the paper's collection, each with a content of its own; folder "Datasets" has those of MMLU.
CAA = {name: f"[{number}]".encode() for number, name in enumerate(published_digests("caa"))}


@dataclass
class Server:
    """What the server sends, and what it was asked for."""

    content: bytes = CONTENT
    files: dict[str, bytes] | None = None  # by address; instead of the one content
    cut: int | None = None  # bytes after which the response breaks off
    status: int = 200
    url: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            content = state.content if state.files is None else state.files.get(self.path[1:])
            if state.status != 200 or content is None:
                self.send_error(404 if content is None else state.status)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: state.cut])

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
        monkeypatch.setenv("CAA_INTERP_PUBLISHED_URL", state.url)
        try:
            yield state
        finally:
            httpd.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the one known file belongs."""
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(ROOTS, "anthropic", (ROOT,))
    monkeypatch.setitem(published_digests("anthropic"), "tidiness.jsonl", hashlib.sha256(CONTENT).hexdigest())
    return tmp_path / "published" / "anthropic" / "tidiness.jsonl"


def left(target: Path) -> list[str]:
    return [path.name for path in target.parent.iterdir()]


def test_downloads_once(server: Server, target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert fetch("anthropic", "tidiness") == target
    assert target.read_bytes() == CONTENT
    assert fetch("anthropic", "tidiness") == target
    assert server.asked == [f"/{PATH}"]
    assert left(target) == ["tidiness.jsonl"]
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_in_the_cache_is_replaced(server: Server, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT[:-1])
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT


def test_a_transfer_that_breaks_off_leaves_nothing_and_the_next_one_is_whole(server: Server, target: Path) -> None:
    server.cut = 1000
    with pytest.raises(DownloadError, match=r"did not arrive in .*try again"):
        fetch("anthropic", "tidiness")
    assert left(target) == []
    server.cut = None
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT.replace(b"17", b"18"), CONTENT * 2, b""])
def test_another_file_is_refused_and_what_to_do_is_said(server: Server, target: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(DownloadError, match=rf"{server.url}/{PATH}: .*not the expected file.*removed.*read_pairs"):
        fetch("anthropic", "tidiness")
    assert left(target) == []


@pytest.mark.parametrize("status", [404, 503])
def test_what_the_server_refuses_is_said(server: Server, target: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=rf"{server.url}/{PATH}: .*{status}.*CAA_INTERP_PUBLISHED_URL.*read_pairs"):
        fetch("anthropic", "tidiness")
    assert left(target) == []


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # not listening: every connection is refused
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("CAA_INTERP_PUBLISHED_URL", url)
        with pytest.raises(DownloadError, match=rf"{url}/owner/name/.*Check the network.*read_pairs") as caught:
            fetch("anthropic", "tidiness")
    assert isinstance(caught.value, CAAError)


def test_a_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("CAA_INTERP_PUBLISHED_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DownloadError, match="timed out"):
            fetch("anthropic", "tidiness")


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "published").write_text("a file where a folder belongs")
    with pytest.raises(DownloadError, match=r"did not arrive in .*CAA_INTERP_CACHE"):
        fetch("anthropic", "tidiness")


def test_an_unknown_name_says_which_are_known() -> None:
    with pytest.raises(
        InputError, match=r"name: 'honesty' is not .*'anthropic': .*survival-instinct\.jsonl.*read_pairs"
    ):
        fetch("anthropic", "honesty")
    with pytest.raises(
        InputError, match=r"'sycophancy' is not .*generate/sycophancy/generate_dataset\.json.*nrimsky/CAA"
    ):
        fetch("caa", "sycophancy")


def test_an_unknown_collection() -> None:
    with pytest.raises(InputError, match="'paper' is not one of 'anthropic', 'caa'"):
        fetch("paper", "sycophancy")  # type: ignore[arg-type]


def test_a_mirror_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAA_INTERP_PUBLISHED_URL", "file:///etc")
    with pytest.raises(InputError, match="CAA_INTERP_PUBLISHED_URL: 'file:///etc'"):
        fetch("anthropic", "tidiness")


# A whole collection


@pytest.fixture
def caa(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the paper's files, which a server has in two folders, one of each spelling."""
    for name, content in CAA.items():
        monkeypatch.setitem(published_digests("caa"), name, hashlib.sha256(content).hexdigest())
    lower, upper = ROOTS["caa"]
    server.files = {f"{upper if 'mmlu' in name else lower}/{name}": content for name, content in CAA.items()}
    return tmp_path / "published" / "caa"


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_papers_files_are_pinned() -> None:
    names = list(published_digests("caa"))
    kinds = {
        kind: sum(name.endswith(f"{kind}.json") for name in names) for kind in ("generate_dataset", "_ab", "_ended")
    }
    assert kinds == {"generate_dataset": 7, "_ab": 7, "_ended": 7}
    assert set(names) > {"test/mmlu/mmlu.json", "test/truthfulqa/truthful_qa.json"}
    assert len(names) == 23
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in published_digests("caa").values())


def test_all_of_the_papers_files_each_once(server: Server, caa: Path) -> None:
    assert fetch("caa") == caa
    assert held(caa) == CAA
    assert len(server.asked) == 23 + 1  # one was looked for under the other spelling first
    assert fetch("caa") == caa
    assert len(server.asked) == 24


def test_what_broke_off_goes_on(server: Server, caa: Path) -> None:
    assert server.files is not None
    last = list(CAA)[-1]
    (address,) = (address for address in server.files if address.endswith(last))
    whole = server.files.pop(address)
    with pytest.raises(DownloadError, match=rf"{last}: .*404.*stay.*--data of caa-interp reproduce"):
        fetch("caa")
    assert held(caa) == {name: content for name, content in CAA.items() if name != last}
    server.files[address] = whole
    server.asked.clear()
    (caa / "test/mmlu/mmlu.json").write_bytes(b"[")  # and a file that was damaged
    assert fetch("caa") == caa
    assert held(caa) == CAA
    assert [asked.removeprefix("/") for asked in server.asked][-1] == address
    assert len(server.asked) == 3


def test_one_file_of_the_paper(caa: Path) -> None:
    assert fetch("caa", "test/mmlu/mmlu.json") == caa / "test" / "mmlu" / "mmlu.json"
    assert list(held(caa)) == ["test/mmlu/mmlu.json"]


def test_a_server_that_fails_is_not_asked_for_another_spelling(server: Server, caa: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match="503"):
        fetch("caa")
    assert len(server.asked) == 1
    assert held(caa) == {}

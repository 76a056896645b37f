import contextlib
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from caa_interp.behaviors import downloads as module
from caa_interp.behaviors.downloads import FILES, DownloadError, PublishedFile, fetch
from caa_interp.errors import CAAError, InputError

CONTENT = b"".join(b'{"question": "Question %d?"}\n' % number for number in range(5000))
COMMIT = "0" * 40
PATH = "some folder/tidiness.jsonl"


@dataclass
class Server:
    """What the server sends, and what it was asked for."""

    content: bytes = CONTENT
    cut: list[int] = field(default_factory=list)  # bytes after which each response breaks off
    status: int = 200
    ranges: bool = True
    refused: int = 0  # requests that are answered 416
    wrong_range: bool = False
    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append((self.path, asked))
            if state.status != 200:
                self.send_error(state.status)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if state.refused:
                state.refused -= 1
                self.send_error(416)
                return
            body = state.content[start:]
            self.send_response(206 if start else 200)
            if start:
                first = 0 if state.wrong_range else start
                self.send_header("Content-Range", f"bytes {first}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a client that has enough hangs up
                self.wfile.write(body[: state.cut.pop(0)] if state.cut else body)

        def log_message(self, *args: object) -> None:
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    monkeypatch.setenv("CAA_INTERP_PUBLISHED_URL", state.url)
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the one known file belongs."""
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    digest = hashlib.sha256(CONTENT).hexdigest()
    monkeypatch.setitem(FILES["anthropic"], "tidiness", PublishedFile("owner/name", COMMIT, PATH, len(CONTENT), digest))
    return tmp_path / "published" / "anthropic" / PATH


def leftover(target: Path) -> Path:
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    return part


def test_downloads_once(server: Server, target: Path) -> None:
    assert fetch("anthropic", "tidiness") == target
    assert target.read_bytes() == CONTENT
    assert fetch("anthropic", "tidiness") == target
    assert server.asked == [(f"/owner/name/{COMMIT}/some%20folder/tidiness.jsonl", None)]
    assert [path.name for path in target.parent.iterdir()] == ["tidiness.jsonl"]


def test_truncated_transfer_is_resumed_where_it_stopped(server: Server, target: Path) -> None:
    server.cut = [1000, 2000]
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=3000-"]


def test_transfer_that_stays_truncated_is_kept_for_the_next_call(server: Server, target: Path) -> None:
    server.cut = [100, 100, 100]
    with pytest.raises(DownloadError, match=r"300 of [\d,]+ bytes arrived.*call fetch again"):
        fetch("anthropic", "tidiness")
    assert not target.exists()
    assert leftover(target).read_bytes() == CONTENT[:300]
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT
    assert server.asked[-1][1] == "bytes=300-"


def test_server_without_ranges_sends_it_anew(server: Server, target: Path) -> None:
    server.ranges = False
    leftover(target).write_bytes(CONTENT[:500])
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT


def test_server_with_another_range_than_asked_for(server: Server, target: Path) -> None:
    server.wrong_range = True
    leftover(target).write_bytes(CONTENT[:500])
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["bytes=500-", None]


def test_complete_leftover_is_not_downloaded_again(server: Server, target: Path) -> None:
    leftover(target).write_bytes(CONTENT)
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("wrong", [b"x" * 500, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 10)])
def test_wrong_leftover_is_replaced(server: Server, target: Path, wrong: bytes) -> None:
    leftover(target).write_bytes(wrong)
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT
    assert not leftover(target).exists()


def test_range_that_is_refused_begins_again(server: Server, target: Path) -> None:
    server.refused = 1
    leftover(target).write_bytes(CONTENT[:500])
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == ["bytes=500-", None]


def test_wrong_hash(server: Server, target: Path) -> None:
    server.content = CONTENT.replace(b"17", b"18")
    with pytest.raises(DownloadError, match=r"not the expected .* with sha256 .*removed"):
        fetch("anthropic", "tidiness")
    assert not target.exists()
    assert not leftover(target).exists()


def test_file_that_is_too_long(server: Server, target: Path) -> None:
    server.content = CONTENT * 50
    with pytest.raises(DownloadError, match="not the expected"):
        fetch("anthropic", "tidiness")
    assert not target.exists()


def test_damaged_file_in_the_cache_is_replaced(server: Server, target: Path) -> None:
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT[:-1])
    assert fetch("anthropic", "tidiness").read_bytes() == CONTENT


def test_file_that_is_gone(server: Server, target: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match=r"http://127.*tidiness.*answers 404.*read_pairs"):
        fetch("anthropic", "tidiness")
    assert len(server.asked) == 1


def test_server_in_trouble_is_asked_again(server: Server, target: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match=r"0 of [\d,]+ bytes arrived .*503"):
        fetch("anthropic", "tidiness")
    assert len(server.asked) == 3


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("CAA_INTERP_PUBLISHED_URL", url)
    with pytest.raises(DownloadError, match=rf"{url}/owner/name/.*0 of .*Check the network.*read_pairs") as caught:
        fetch("anthropic", "tidiness")
    assert isinstance(caught.value, CAAError)


def test_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("CAA_INTERP_PUBLISHED_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DownloadError, match="timed out"):
            fetch("anthropic", "tidiness")


def test_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "published").write_text("a file where a folder belongs")
    with pytest.raises(DownloadError, match=r"cannot be written .*CAA_INTERP_CACHE"):
        fetch("anthropic", "tidiness")


def test_unknown_behavior_says_which_are_known() -> None:
    with pytest.raises(InputError, match=r"'honesty' in 'anthropic'.*fetch\('anthropic', 'survival-instinct'\)"):
        fetch("anthropic", "honesty")
    with pytest.raises(InputError, match=r"nrimsky/CAA .*read_pairs"):
        fetch("caa", "sycophancy")


def test_unknown_collection() -> None:
    with pytest.raises(InputError, match="'paper' is not one of 'anthropic', 'caa'"):
        fetch("paper", "sycophancy")  # type: ignore[arg-type]


def test_base_url_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAA_INTERP_PUBLISHED_URL", "file:///etc")
    with pytest.raises(InputError, match="CAA_INTERP_PUBLISHED_URL: 'file:///etc'"):
        fetch("anthropic", "tidiness")


def test_table_is_well_formed() -> None:
    for collection in FILES.values():
        for file in collection.values():
            assert len(file.commit) == 40
            assert len(bytes.fromhex(file.sha256)) == 32
            assert file.size > 0

"""The real client of the Hugging Face Hub against a hub on loopback, which keeps commits in memory."""

import base64
import hashlib
import json
import os
import re
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import plotly.graph_objects as go
import pytest
import torch
import yaml
from huggingface_hub import close_session, constants
from huggingface_hub.utils.sha import git_hash

import caa_interp as caa
from caa_interp.interchange import hub as hub_module
from caa_interp.interchange.hub import from_hub, push_to_hub, save_for_hub
from tests.fresh_python import fresh_python

WRITER, READER = "hf_writer", "hf_reader"


class Hub(ThreadingHTTPServer):
    """Repositories, each a list of commits; ``fault`` may answer a request in their place."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories = {}
        self.large = {}  # contents of large files by sha256, before a commit names them
        self.requests = []
        self.fault = lambda method, path: None

    def add(self, repo_id, summary, files):
        commits = self.repositories[repo_id]["commits"]
        oid = hashlib.sha1(f"{repo_id} {len(commits)}".encode()).hexdigest()
        commits.append({"oid": oid, "summary": summary, "files": files})
        self.repositories[repo_id]["refs"]["main"] = oid
        return oid

    def commit(self, repo_id, revision="main"):
        """The commit that a branch, a tag or a commit id names."""
        repository = self.repositories[repo_id]
        oid = repository["refs"].get(revision, revision)
        return next((commit for commit in repository["commits"] if commit["oid"] == oid), None)


class Answers(BaseHTTPRequestHandler):
    """What huggingface_hub asks to make a repository, look at it, commit to it and read from it."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_request(self):
        path = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, path, self.headers.get("Authorization")))
        fault = self.server.fault(self.command, path)
        if fault is not None:
            status, headers, content = fault
            self.answer(status, content, **headers)
            # Less than was declared: the connection ends here.
            self.close_connection = "Content_Length" in headers
            return
        for pattern, method, act in (
            ("/api/repos/create", "POST", self.create),
            ("/api/validate-yaml", "POST", self.validate),
            ("/api/models/([^/]+/[^/]+)/preupload/(.+)", "POST", self.preupload),
            ("/api/models/([^/]+/[^/]+)/commit/(.+)", "POST", self.commit),
            ("/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", "GET", self.model_info),
            ("/([^/]+/[^/]+).git/info/lfs/objects/batch", "POST", self.batch),
            ("/large/([0-9a-f]+)", "PUT", self.keep_large),
            ("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "GET", self.resolve),
        ):
            found = re.fullmatch(pattern, path)
            if found and method == self.command.replace("HEAD", "GET"):
                return act(*found.groups())
        self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def may_write(self):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token == WRITER:
            return True
        if token == READER:
            self.answer(403, {"error": "no"}, X_Error_Message="You don't have the rights to do that")
        else:
            self.answer(
                401, {"error": "Invalid username or password."}, X_Error_Message="Invalid username or password."
            )
        return False

    def known(self, repo_id, revision):
        """The commit, or None after the answer that there is none."""
        if repo_id not in self.server.repositories:
            self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        private = self.server.repositories[repo_id]["visibility"] == "private"
        if private and not self.headers.get("Authorization"):
            self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        commit = self.server.commit(repo_id, revision)
        if commit is None:
            self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message=f"Invalid rev id: {revision}")
        return commit

    def create(self):
        if not self.may_write():
            return
        asked = json.loads(self.body)
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = f"{self.server.endpoint}/{repo_id}"
        if repo_id in self.server.repositories:
            return self.answer(409, {"error": "You already created this model repo", "url": url})
        self.server.repositories[repo_id] = {"commits": [], "refs": {}, "visibility": asked["visibility"]}
        self.server.add(repo_id, "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.answer(200, {"url": url, "name": repo_id})

    def validate(self):
        content = json.loads(self.body)["content"]
        front = yaml.safe_load(content.split("\n---\n")[0])
        problems = [] if isinstance(front.get("library_name"), str) else [{"message": "no library_name"}]
        self.answer(400 if problems else 200, {"errors": problems, "warnings": []})

    def model_info(self, repo_id, revision):
        commit = self.known(repo_id, revision or "main")
        if commit is not None:
            siblings = [{"rfilename": name} for name in sorted(commit["files"])]
            private = self.server.repositories[repo_id]["visibility"] == "private"
            self.answer(
                200, {"id": repo_id, "sha": commit["oid"], "siblings": siblings, "tags": [], "private": private}
            )

    def preupload(self, repo_id, revision):
        commit = self.known(repo_id, revision)
        if commit is None or not self.may_write():
            return
        answers = []
        for file in json.loads(self.body)["files"]:
            large = file["path"].endswith(".safetensors") and constants.HF_HUB_DISABLE_XET
            there = commit["files"].get(file["path"])
            oid = None if there is None else hashlib.sha256(there).hexdigest() if large else git_hash(there)
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": answers})

    def batch(self, repo_id):
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.endpoint}/large/{one['oid']}"}}}
            for one in json.loads(self.body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def keep_large(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return self.answer(400)
        self.server.large[oid] = self.body
        self.answer(200)

    def commit(self, repo_id, revision):
        before = self.known(repo_id, revision)
        if before is None or not self.may_write():
            return
        files, summary = dict(before["files"]), None
        for text in self.body.decode().splitlines():
            line = json.loads(text)
            value = line["value"]
            if line["key"] == "header":
                summary = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                return self.answer(400)
        oid = self.server.add(repo_id, summary, files)
        url = f"{self.server.endpoint}/{repo_id}/commit/{oid}"
        self.answer(200, {"commitUrl": url, "commitOid": oid})

    def resolve(self, repo_id, revision, name):
        commit = self.known(repo_id, revision)
        if commit is None:
            return
        headers = {"X_Repo_Commit": commit["oid"]}
        if name not in commit["files"]:
            return self.answer(404, **headers, X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        content = commit["files"][name]
        self.answer(200, content, **headers, ETag=f'"{hashlib.sha256(content).hexdigest()}"')


def set_endpoint(monkeypatch, endpoint):
    """Do what HF_ENDPOINT does when the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that the client in this process is set to, with a cache and tokens of its own."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    set_endpoint(monkeypatch, server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # what the client does between attempts
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    close_session()
    yield server
    close_session()
    server.shutdown()
    server.server_close()
    thread.join()


def vector(scale=1.0, layers=(3, 1), **metadata):
    values = scale * torch.randn(len(layers), 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return caa.SteeringVector(values, layers, {"behavior": "optimism", "model": "org/model", **metadata})


def push(one, repo_id, *, figure=None, **options):
    with tempfile.TemporaryDirectory() as folder:
        return push_to_hub(save_for_hub(one, folder, repo_id=repo_id, figure=figure), repo_id, **options)


def cached(tmp_path):
    """Whole and half files in the client's cache, apart from its locks and notes."""
    return [path for path in (tmp_path / "cache").glob("models--*/[bs]*/**/*") if path.is_file()]


# The client's own upload of a large file asks its HTTP library in a way that the library advises against.
@pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
@pytest.mark.parametrize("large", [False, True])
def test_pushed_and_pulled_to_the_bit(hub, monkeypatch, tmp_path, large):
    # Large files go through LFS; Xet, which replaces it on the real hub, speaks to servers of its own.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", large)
    url = push(vector(), "you/optimism", commit_message="First")
    made, pushed = hub.repositories["you/optimism"]["commits"]
    assert url == f"{hub.endpoint}/you/optimism/commit/{pushed['oid']}"
    assert pushed["summary"] == "First"
    assert sorted(pushed["files"]) == [".gitattributes", "README.md", "vector.safetensors"]
    assert bool(hub.large) == large
    folder = save_for_hub(vector(), tmp_path / "folder")
    assert len(pushed["files"]["vector.safetensors"]) == (folder / "vector.safetensors").stat().st_size
    assert b"caa.interchange.from_hub('you/optimism', model=model)" in pushed["files"]["README.md"]
    assert hub.repositories["you/optimism"]["visibility"] == "public"

    hub.requests.clear()
    found = from_hub("you/optimism")
    assert torch.equal(found.values, vector().values)
    assert found.values.dtype == torch.float64
    assert found.layers == (3, 1)
    assert found.metadata == {**vector().metadata, "hub": {"repo": "you/optimism", "revision": pushed["oid"]}}
    assert {path for _, path, _ in hub.requests} == {"/you/optimism/resolve/main/vector.safetensors"}
    assert made["files"].keys() == {".gitattributes"}


def test_a_commit_stays_what_it_was(hub):
    first = push(vector(), "you/v").rpartition("/")[2]
    second = push(vector(2.0), "you/v").rpartition("/")[2]
    hub.repositories["you/v"]["refs"]["v1"] = first
    for revision, oid, scale in ((None, second, 2.0), ("v1", first, 1.0), (first, first, 1.0)):
        found = from_hub("you/v", revision=revision)
        assert torch.equal(found.values, vector(scale).values)
        assert found.metadata["hub"]["revision"] == oid


def test_what_was_downloaded_is_there_without_a_network(hub, monkeypatch):
    push(vector(), "you/v")
    online = from_hub("you/v")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = from_hub("you/v")
    assert offline.metadata == online.metadata
    assert torch.equal(offline.values, online.values)
    assert hub.requests == []


def test_nothing_new_makes_no_commit(hub, monkeypatch, tmp_path):
    content = vector().save(tmp_path / "v.safetensors").read_bytes()
    monkeypatch.setattr("caa_interp.vectors.files.write_atomically", lambda path, _: path.write_bytes(content))
    first = push(vector(), "you/v")
    assert push(vector(), "you/v") == first
    assert len(hub.repositories["you/v"]["commits"]) == 2


def test_other_files_stay_and_a_figure_of_the_other_kind_goes(hub):
    class Drawn(go.Figure):
        def write_image(self, path, **options):
            with open(path, "wb") as file:
                file.write(b"\x89PNG")

    push(vector(), "you/v", figure=Drawn())
    commits = hub.repositories["you/v"]["commits"]
    commits[-1]["files"]["figure.json"] = b"{}"
    commits[-1]["files"]["notes.txt"] = b"mine"
    push(vector(), "you/v", figure=Drawn(), commit_message="Again")
    assert len(commits) == 3
    assert sorted(commits[-1]["files"]) == [
        *(".gitattributes", "README.md", "figure.png", "notes.txt", "vector.safetensors")
    ]
    push(vector(), "you/v")
    assert "figure.png" not in commits[-1]["files"]
    assert b"figure.png" not in commits[-1]["files"]["README.md"]


def test_private_repositories_and_tokens(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    push(vector(), "you/secret", private=True, token=WRITER)
    assert hub.repositories["you/secret"]["visibility"] == "private"
    assert torch.equal(from_hub("you/secret", token=READER).values, vector().values)
    push(vector(), "you/other", private=True, token=WRITER)
    with pytest.raises(
        caa.errors.ModelError, match="repository 'you/other': there is no such repository, or it is private"
    ):
        from_hub("you/other")
    assert {token for _, path, token in hub.requests if "create" in path} == {f"Bearer {WRITER}"}


def test_what_is_to_be_private_is_not_sent_to_a_public_repository(hub):
    push(vector(), "you/v")
    hub.requests.clear()
    with pytest.raises(caa.InputError, match=r"private: 'you/v' already exists and is public.*Nothing was sent"):
        push(vector(2.0), "you/v", private=True)
    assert not [path for _, path, _ in hub.requests if "commit" in path or "upload" in path]
    assert len(hub.repositories["you/v"]["commits"]) == 2
    push(vector(), "you/secret", private=True)
    push(vector(2.0), "you/secret", private=True)
    push(vector(3.0), "you/secret")  # stays private
    assert hub.repositories["you/secret"]["visibility"] == "private"
    assert len(hub.repositories["you/secret"]["commits"]) == 4


def test_folders_in_a_repository(hub):
    push(vector(), "you/v")
    files = hub.repositories["you/v"]["commits"][-1]["files"]
    files["layer_13/v.safetensors"] = files["vector.safetensors"]
    found = from_hub("you/v", filename="layer_13/v.safetensors")
    assert torch.equal(found.values, vector().values)
    assert found.metadata["hub"]["revision"] == hub.commit("you/v")["oid"]


def answers(status, **headers):
    return lambda method, path: (status, headers, b"") if "/resolve/" in path else None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (answers(401, X_Error_Code="GatedRepo"), "it is gated. Accept its conditions on its page; then run `hf auth"),
        (answers(403, X_Error_Code="GatedRepo"), "it is gated"),
        (
            answers(404, X_Error_Code="RepoNotFound"),
            r"there is no such repository, or it is private .* Check the name",
        ),
        (answers(401), "the hub does not accept the token, or none was sent. Log in: run `hf auth login`"),
        (answers(403, X_Error_Message="no"), "the token may not read it. Give one that may, or ask its owner"),
        (answers(429), "the hub counts too many requests. Wait some minutes"),
        (answers(500), r"the hub answers with an error of its own \(500\). Call again later"),
        (answers(503), r"the hub answers with an error of its own \(503\)"),
        (answers(200), "it cannot be read: .*missing the 'X-Repo-Commit' header"),
    ],
)
def test_what_keeps_a_vector_from_being_read(hub, tmp_path, fault, message):
    push(vector(), "you/v")
    hub.fault = fault
    with pytest.raises(caa.errors.ModelError, match=f"^repository 'you/v': {message}") as raised:
        from_hub("you/v")
    assert WRITER not in str(raised.value)
    assert raised.value.__cause__ is not None
    assert cached(tmp_path) == []
    hub.fault = lambda method, path: None
    assert torch.equal(from_hub("you/v").values, vector().values)


def test_what_is_not_in_a_repository(hub, tmp_path):
    push(vector(), "you/v")
    with pytest.raises(caa.errors.ModelError, match="repository 'you/w': there is no such repository"):
        from_hub("you/w")
    with pytest.raises(caa.InputError, match=r"revision: 'v9' is not in 'you/v'. Check the branch, tag or commit"):
        from_hub("you/v", revision="v9")
    with pytest.raises(caa.InputError, match="revision: 'v9' is not in 'you/v'"):
        push(vector(2.0), "you/v", revision="v9")
    with pytest.raises(caa.InputError, match=r"filename: 'w.safetensors' is not in 'you/v'. Check its files"):
        from_hub("you/v", filename="w.safetensors")
    assert cached(tmp_path) == []
    assert len(hub.repositories["you/v"]["commits"]) == 2


def test_a_hub_that_is_not_there(hub, monkeypatch, tmp_path):
    set_endpoint(monkeypatch, "http://127.0.0.1:9")
    for call in (lambda: from_hub("you/v"), lambda: push(vector(), "you/v")):
        with pytest.raises(
            caa.errors.ModelError, match=r"'you/v': the hub cannot be reached, or the connection broke. Check"
        ):
            call()
    assert cached(tmp_path) == []


@pytest.mark.parametrize("declared", ["short", "whole"])
def test_content_that_is_cut_short_is_not_kept(hub, tmp_path, declared):
    push(vector(), "you/v")
    content = hub.commit("you/v")["files"]["vector.safetensors"]

    def cut(method, path):
        if method == "GET" and "/resolve/" in path:
            return 200, {"Content_Length": str(len(content))} if declared == "whole" else {}, content[:-100]
        return None

    hub.fault = cut
    message = "the hub cannot be reached, or the connection broke" if declared == "whole" else "did not arrive whole"
    with pytest.raises(caa.errors.ModelError, match=f"repository 'you/v': .*{message}"):
        from_hub("you/v")
    assert cached(tmp_path) == []
    hub.fault = lambda method, path: None
    assert torch.equal(from_hub("you/v").values, vector().values)


def test_content_that_was_changed_is_refused(hub, tmp_path):
    push(vector(), "you/v")
    files = hub.commit("you/v")["files"]
    content = bytearray(files["vector.safetensors"])
    content[-1] ^= 1
    files["vector.safetensors"] = bytes(content)
    with pytest.raises(caa.InputError, match=r"of 'you/v': .*it was changed after it was saved.*again, delete (.*)\."):
        from_hub("you/v")
    assert (tmp_path / "cache" / "models--you--v").is_dir()


def test_a_model_is_no_vector_and_nothing_pickled_is_asked_for(hub):
    push(vector(), "you/v")
    files = hub.commit("you/v")["files"]
    files["model.safetensors"] = b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "
    files["vector.pt"] = b"\x80\x04."
    with pytest.raises(caa.InputError, match=r"'model.safetensors' of 'you/v': .*it is not a steering vector"):
        from_hub("you/v", filename="model.safetensors")
    hub.requests.clear()
    with pytest.raises(caa.InputError, match="Other kinds of files are not downloaded"):
        from_hub("you/v", filename="vector.pt")
    assert hub.requests == []


def test_a_file_that_is_too_large_is_not_downloaded(hub, monkeypatch, tmp_path):
    push(vector(), "you/v")
    monkeypatch.setattr(hub_module, "MAX_BYTES", 100)
    with pytest.raises(caa.InputError, match=r"'vector.safetensors' of 'you/v' has 1,\d\d\d bytes; at most 100 are"):
        from_hub("you/v")
    assert [method for method, path, _ in hub.requests if "/resolve/" in path] == ["HEAD"]
    assert cached(tmp_path) == []


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "the hub does not accept the token, or none was sent. Log in: run `hf auth login`, set HF_TOKEN"),
        ("hf_old", "the hub does not accept the token, or none was sent"),
        (READER, "the token may not write to it. Give one that may, or ask its owner"),
    ],
)
def test_who_may_not_write(hub, monkeypatch, token, message):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(caa.errors.ModelError, match=f"^repository 'you/v': {message}") as raised:
        push(vector(), "you/v")
    assert not token or token not in str(raised.value)
    assert hub.repositories == {}


@pytest.mark.parametrize("step", ["/api/validate-yaml", "/preupload/", "/commit/"])
def test_a_push_that_fails_half_way_commits_nothing(hub, step):
    push(vector(), "you/v")
    hub.fault = lambda method, path: (500, {}, b"{}") if step in path else None
    with pytest.raises(caa.errors.ModelError, match=r"the hub answers with an error of its own \(500\)"):
        push(vector(2.0), "you/v")
    assert len(hub.repositories["you/v"]["commits"]) == 2
    hub.fault = lambda method, path: None
    assert torch.equal(from_hub("you/v").values, vector().values)


def test_a_refusal_says_what_the_hub_says(hub):
    push(vector(), "you/v")
    refused = {"X_Error_Message": "You have no room left"}
    hub.fault = lambda method, path: (400, refused, b"{}") if "/commit/" in path else None
    with pytest.raises(
        caa.errors.ModelError, match=r"repository 'you/v': it cannot be written: .*You have no room left"
    ):
        push(vector(2.0), "you/v")


@pytest.mark.slow
def test_a_process_of_its_own_with_the_environment_alone(hub, tmp_path):
    code = """
import torch
import caa_interp as caa
from caa_interp.interchange.hub import from_hub, push_to_hub, save_for_hub
one = caa.SteeringVector(torch.arange(6.0).reshape(2, 3), (0, 1), {"behavior": "b"})
url = push_to_hub(save_for_hub(one, "pushed"), "you/v")
found = from_hub("you/v", revision=url.rpartition("/")[2])
assert torch.equal(found.values, one.values)
print(found.metadata["hub"]["revision"])
"""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
    }
    assert fresh_python(code, env=environment, cwd=tmp_path).strip() == hub.commit("you/v")["oid"]

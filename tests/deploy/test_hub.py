"""Push to and pull from a hub: a server of this machine that speaks what huggingface_hub asks."""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from lgkd._internal.atomic_io import write_json
from lgkd._internal.manifest import write_manifest
from lgkd.cli import run
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.push import UPLOADED, check_no_paths, check_push
from lgkd.errors import InputError, MissingError
from lgkd.runner.initial_weights import find_initial
from lgkd.runs.hub import PULLED, is_hub, repository_of
from tests.support.small import environment

TOKEN = "hf_not_to_be_told"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the server has and has been sent."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    bodies: list[bytes] = field(default_factory=list)
    refuses: int | None = None


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def answer(self, value: Any, code: int = 200, **headers: str) -> None:
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            for name, text in headers.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def note(self) -> tuple[str, bytes]:
            path = unquote(urlsplit(self.path).path)
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                body = b"".join(parts)
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.asked.append((self.command, path))
            hub.tokens.add(self.headers.get("Authorization", ""))
            hub.bodies.append(body)
            return path, body

        def do_POST(self) -> None:
            path, body = self.note()
            if hub.refuses is not None:
                self.answer({"error": f"refused, {self.headers.get('Authorization')}"}, hub.refuses)
            elif path == "/api/repos/create":
                hub.created.append(json.loads(body))
                self.answer({"url": f"{hub.address}/me/digits"})
            elif path == "/api/validate-yaml":
                self.answer({"errors": [], "warnings": []})
            elif path.endswith("/preupload/main"):
                files = json.loads(body)["files"]
                told = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
                self.answer({"files": told})
            elif path == "/api/models/me/digits/commit/main":
                for line in body.splitlines():
                    one = json.loads(line)
                    if one["key"] == "file":
                        hub.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                address = f"{hub.address}/me/digits/commit/{COMMIT}"
                self.answer({"commitUrl": address, "commitOid": COMMIT, "success": True})
            else:
                self.answer({"error": f"no {path}"}, 404)

        def do_GET(self) -> None:
            if self.path == "/api/agent-harnesses":  # by which huggingface_hub may name a program in its user agent
                assert "Authorization" not in self.headers
                self.answer({"harnesses": []})
                return
            path, _ = self.note()
            if path.startswith("/api/models/me/digits/tree/"):
                listed = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in hub.files.items()]
                self.answer(listed)
            elif path.startswith("/api/models/me/digits"):
                told = [{"rfilename": name} for name in hub.files]
                self.answer({"id": "me/digits", "modelId": "me/digits", "sha": COMMIT, "siblings": told})
            elif path.startswith("/me/digits/resolve/") and path.rpartition("/")[2] in hub.files:
                data = hub.files[path.rpartition("/")[2]]
                self.answer(data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=COMMIT)
            else:
                self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

    return Handler


@pytest.fixture
def hub() -> Iterator[Hub]:
    found = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(found)) as server:
        found.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export as files; what is in its weights does not matter here."""
    return made(tmp_path / "export")


def made(folder: Path) -> Path:
    folder.mkdir()
    weights = b"\2\0\0\0\0\0\0\0{}"
    (folder / "student.safetensors").write_bytes(weights)
    about = {
        "format": 1, "name": "vit_96", "options": {}, "num_classes": 2, "image_size": [16, 16], "mean": [0, 0, 0],
        "std": [1, 1, 1], "interpolation": "bicubic", "classes": ["a", "b"],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip
    write_json(folder / "student.json", about)
    write_json(folder / "export.json", {"files": {}})
    (folder / "README.md").write_text("---\ntags: [lgkd]\n---\n\n# A student\n")
    (folder / "notes.txt").write_text("not to be uploaded")
    (folder / "student.pt2").write_bytes(b"not to be uploaded")
    write_manifest(folder, ("student.json", "export.json", "student.safetensors"))
    return folder


def elsewhere(code: str, hub: Hub, tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A program of its own: huggingface_hub reads its settings when it is imported."""
    env = {
        **environment(tmp_path / "home"),
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "LGKD_OFFLINE": "0",
        **more,
    }
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)


PUSH = """
from pathlib import Path
from lgkd.deploy.push import push
print(push(Path("export"), "me/digits", public={public}))
"""
PULL = """
from lgkd.deploy.inference.locate import find_source
print(find_source("hf:me/digits", offline={offline}).folder)
"""


def test_exactly_the_listed_files_are_uploaded(hub: Hub, export: Path, tmp_path: Path) -> None:
    done = elsewhere(PUSH.format(public=False), hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.address}/me/digits/commit/{COMMIT}"
    assert hub.files == {name: (export / name).read_bytes() for name in UPLOADED}
    assert set(UPLOADED) == {"student.safetensors", "student.json", "export.json", "README.md", "MANIFEST.json"}
    assert [(one["name"], one["organization"], one.get("visibility", one.get("private"))) for one in hub.created] in (
        [("digits", "me", "private")],
        [("digits", "me", True)],
    )
    # The token went where huggingface_hub sends it, and nowhere else; no body names this machine.
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.stdout + done.stderr
    sent = b"\n".join(hub.bodies)
    assert TOKEN.encode() not in sent and str(tmp_path).encode() not in sent and b"not to be uploaded" not in sent
    assert {path for _, path in hub.asked} == {
        "/api/repos/create", "/api/validate-yaml", "/api/models/me/digits/preupload/main",
        "/api/models/me/digits/commit/main",
    }  # fmt: skip


def test_a_new_repository_is_public_only_if_asked(hub: Hub, export: Path, tmp_path: Path) -> None:
    assert elsewhere(PUSH.format(public=True), hub, tmp_path).returncode == 0
    assert hub.created[0].get("visibility", "public") == "public" and not hub.created[0].get("private")


def test_what_is_pulled_is_safetensors_and_json_compared_with_the_manifest(
    hub: Hub, export: Path, tmp_path: Path
) -> None:
    hub.files = {path.name: path.read_bytes() for path in export.iterdir()}
    hub.files["pytorch_model.bin"] = b"a pickle"
    done = elsewhere(PULL.format(offline=False), hub, tmp_path)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {path.name for path in folder.iterdir()} == set(PULLED)
    assert {path.rpartition("/")[2] for _, path in hub.asked if "/resolve/" in path} == set(PULLED)
    assert all((folder / name).read_bytes() == hub.files[name] for name in PULLED)
    # Once it is here, no connection is needed, and with --offline none is made.
    hub.asked.clear()
    again = elsewhere(PULL.format(offline=True), hub, tmp_path)
    assert again.stdout == done.stdout and hub.asked == []


def test_a_changed_file_is_refused(hub: Hub, export: Path, tmp_path: Path) -> None:
    hub.files = {path.name: path.read_bytes() for path in export.iterdir()}
    hub.files["student.safetensors"] = b"\2\0\0\0\0\0\0\0{ "
    done = elsewhere(PULL.format(offline=False), hub, tmp_path)
    assert done.returncode and "student.safetensors: has SHA-256" in done.stderr and "InputError" in done.stderr


def test_a_repository_without_a_student_or_that_is_not_there_is_told(hub: Hub, export: Path, tmp_path: Path) -> None:
    hub.files = {"README.md": b"x", "pytorch_model.bin": b"a pickle"}
    done = elsewhere(PULL.format(offline=False), hub, tmp_path)
    assert "hf:me/digits has no student.safetensors, expected the files of `lgkd export --push`" in done.stderr
    done = elsewhere(PULL.format(offline=False).replace("me/digits", "me/other"), hub, tmp_path)
    assert "MissingError: me/other is not here, and could not be downloaded (the hub answered 404)" in done.stderr
    assert "expected a repository of an export" in done.stderr and TOKEN not in done.stderr


@pytest.mark.parametrize("code", [401, 403, 500])
def test_a_push_that_is_refused_is_told_without_the_token(hub: Hub, export: Path, tmp_path: Path, code: int) -> None:
    hub.refuses = code
    done = elsewhere(PUSH.format(public=False), hub, tmp_path)
    assert f"MissingError: the hub did not take me/digits (it answered {code}), expected a repository" in done.stderr
    assert ("log in by `hf auth login`" in done.stderr) == (code != 500)
    assert TOKEN not in done.stdout + done.stderr and hub.files == {}


# Without a server


def test_a_file_that_names_a_folder_of_this_machine_is_not_uploaded(tmp_path: Path) -> None:
    card = f"trained on {tmp_path}/photos".encode()
    with pytest.raises(
        InputError, match=r"README.md names .*, expected none in what is uploaded; nothing was uploaded"
    ):
        check_no_paths({"README.md": card}, [tmp_path])
    check_no_paths({"README.md": b"trained on photos", "student.safetensors": card}, [tmp_path, Path("/")])


@pytest.mark.parametrize(
    "name",
    [
        "hf:me",
        "hf:/etc/passwd",
        "hf:../me",
        "hf:me/..",
        "hf:me/a/b",
        "hf:me/a@",
        "hf:me/a@../b",
        "hf:me/a--b",
        "hf:me/a b",
    ],
)
def test_a_name_that_is_no_repository_is_refused(name: str) -> None:
    assert is_hub(name) and is_hub(Path(name))
    with pytest.raises(InputError, match="is not a repository, expected OWNER/NAME; write it like hf:me/digits"):
        find_source(name)


def test_names_and_revisions_are_read() -> None:
    assert repository_of("hf:me/digits@v1.0/x") == ("me/digits", "v1.0/x") and repository_of("me/d") == ("me/d", None)
    assert not is_hub("hf/me") and not is_hub(Path("runs/hf:me"))


def test_options_of_a_push_are_checked_before_anything_is_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LGKD_OFFLINE", raising=False)
    assert check_push("me/digits", None, offline=False) == ("safetensors",)
    for repository in ("hf:me/digits", "me/digits@main"):
        with pytest.raises(InputError, match="expected OWNER/NAME; leave out hf: and the revision"):
            check_push(repository, None, offline=False)
    words = ["export", str(tmp_path), "--push", "me/digits"]
    for more, says in (
        (["--offline"], "--push uploads, and lgkd is offline, expected a connection"),
        (["--format", "onnx"], "--push uploads student.safetensors alone, and --format names onnx, expected"),
    ):
        assert run([*words, *more]) == 2 and says in capsys.readouterr().err
    assert run(["export", str(tmp_path), "--public"]) == 2
    assert "--public is about the repository of --push, expected both" in capsys.readouterr().err
    monkeypatch.setenv("LGKD_OFFLINE", "1")
    assert run(words) == 2 and "lgkd is offline" in capsys.readouterr().err


def test_offline_opens_no_connection_and_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for find in (find_source, find_initial):
        with pytest.raises(MissingError, match="me/digits is not here, and lgkd is offline; expected a repository"):
            find("hf:me/digits", offline=True)


def test_a_pulled_student_is_where_a_training_starts_from(
    export: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copytree(export, tmp_path / "pulled")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "pulled"))
    found = find_initial("hf:me/digits")
    assert found is not None and found.classes == ("a", "b") and found.file == tmp_path / "pulled/student.safetensors"

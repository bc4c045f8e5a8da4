"""`lgkd serve`: who is answered, what a body may be, one computation at a time, and a real server."""

import asyncio
import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lgkd
from lgkd.cli import run
from lgkd.data.decode import decode_readable
from lgkd.deploy import requirements
from lgkd.deploy.inference.load import open_source
from lgkd.deploy.inference.locate import find_source
from lgkd.deploy.serve.guard import host_of, is_allowed, is_same_origin
from lgkd.errors import DataError, InputError, TakenError
from tests.support.small import CLASSES, environment, make_pictures
from tests.support.untrained import make_student

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from lgkd.deploy.serve import app as application
from lgkd.deploy.serve.app import LARGEST, QUEUE, make_app
from lgkd.deploy.serve.predictor import Predictor
from lgkd.deploy.serve.run import bind

HERE = "127.0.0.1:8000"
Answer = tuple[int, dict[str, str], bytes]


async def call(
    app: Any, method: str, target: str, headers: Sequence[tuple[str, str]], body: Iterator[bytes], gone: bool = False
) -> Answer:
    """One request by the ASGI specification, without any library for it."""
    path, _, query = target.partition("?")
    sent: list[Any] = []
    chunks = iter([*body, None]) if not hasattr(body, "__next__") else body

    async def receive() -> dict[str, Any]:
        if gone:
            return {"type": "http.disconnect"}
        chunk = next(chunks, None)
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, receive, send)
    status = sent[0]["status"]
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return status, found, b"".join(message.get("body", b"") for message in sent[1:])


def ask(
    app: Any,
    target: str,
    *,
    method: str = "GET",
    body: Any = (),
    host: str | None = HERE,
    gone: bool = False,
    **more: str,
) -> Answer:
    headers = [*([] if host is None else [("Host", host)]), *((name.replace("_", "-"), more[name]) for name in more)]
    return asyncio.run(call(app, method, target, headers, body, gone))


def told(answer: Answer) -> str:
    return json.loads(answer[2])["error"]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("served") / "mine")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("sent"), train=0, test=1) / "test" / "rows" / "0.png"


@pytest.fixture(scope="module")
def predictor(student: Path) -> Predictor:
    return Predictor(open_source(find_source(student), device="cpu"), "mine")


@pytest.fixture(scope="module")
def app(predictor: Predictor) -> Any:
    return make_app(predictor, "127.0.0.1")


# Answers


def test_an_image_has_the_classes_that_predict_gives_its_file(student: Path, image: Path, app: Any) -> None:
    (expected,) = lgkd.predict(student, image, top_k=2, device="cpu")
    status, _, body = ask(app, "/predict?top_k=2", method="POST", body=[image.read_bytes()])
    assert status == 200
    assert json.loads(body) == {
        "classes": [
            {"class": name, "confidence": share}
            for name, share in zip(expected.classes, expected.confidences, strict=True)
        ]
    }


def test_an_overlay_is_a_png_of_the_image(image: Path, app: Any) -> None:
    content = image.read_bytes()
    status, _, body = ask(app, "/predict?explain=true", method="POST", body=[content[:50], content[50:]])
    found = json.loads(body)
    assert status == 200 and len(found["classes"]) == len(CLASSES)
    with Image.open(io.BytesIO(base64.b64decode(found["overlay"]))) as overlay:
        assert overlay.format == "PNG" and overlay.size == (228, 228)


def test_content_is_decoded_as_its_file_is(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise).save(tmp_path / "a.jpg", exif=turned)
    Image.fromarray(noise[..., 0].astype(np.uint16) * 200).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"")
    (tmp_path / "d.png").write_bytes(b"no image")
    (tmp_path / "e.heic").write_bytes(b"\0\0\0\x18ftypavifxxxx")
    files = sorted(tmp_path.iterdir())
    one = decode_readable(files, max_side=40)
    names = [Path(f"upload-{place}") for place in range(len(files))]
    read = {str(name): file.read_bytes() for name, file in zip(names, files, strict=True)}
    other = decode_readable(names, max_side=40, read=read.__getitem__)
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]) and one[2] == other[2]
    assert len(one[0]) == 2 and one[2][2] == "it is empty"


def test_health_and_about(app: Any) -> None:
    assert json.loads(ask(app, "/health")[2]) == {"status": "ok"}
    assert json.loads(ask(app, "/about")[2]) == {
        "student": "mine", "classes": list(CLASSES), "image_size": [16, 16],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("target", "body", "code", "says"),
    [
        ("/predict", [b"no image"], 400, "cannot be read .not an image that Pillow knows., expected.*send another"),
        ("/predict", [], 400, "body is empty"),
        ("/predict?top_k=0", [b"x"], 400, "top_k is not a whole number"),
        ("/predict?top_k=-1", [b"x"], 400, "top_k is not a whole number"),
        ("/predict?top_k=\u0663", [b"x"], 400, "top_k is not a whole number"),
        ("/predict?explain=yes", [b"x"], 400, "explain is neither"),
        ("/predict?exlain=true", [b"x"], 400, "unknown parameter 'exlain'"),
        ("/nothing", [b"x"], 404, "Not Found"),
        ("/about", [b"x"], 405, "Method Not Allowed"),
    ],
)
def test_mistakes_are_told_in_words_and_show_no_traceback(
    app: Any, target: str, body: list[bytes], code: int, says: str
) -> None:
    found = ask(app, target, method="POST", body=body)
    assert found[0] == code and re.search(says, told(found))
    assert b"Traceback" not in found[2] and b".py" not in found[2]


def test_a_cut_png_and_a_bomb_are_told_in_words(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole, "PNG")
    assert "cannot be read" in told(ask(app, "/predict", method="POST", body=[whole.getvalue()[:3000]]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    found = ask(app, "/predict", method="POST", body=[whole.getvalue()])
    assert found[0] == 400 and "could be decompression bomb" in told(found)


def test_an_error_of_the_server_keeps_its_text_from_the_client(
    student: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Predictor):
        def answer(self, data: bytes, *, top_k: int, explain: bool) -> dict[str, Any]:
            raise InputError("/home/me/secret/student.safetensors answers with numbers that are not finite")

    app = make_app(Failing(open_source(find_source(student), device="cpu"), "x"), "127.0.0.1")
    found = ask(app, "/predict", method="POST", body=[b"x"])
    assert found[0] == 500 and b"secret" not in found[2] and "its terminal has the reason" in told(found)
    assert "secret" in caplog.text


# Bodies


def test_a_body_is_cut_at_20_mb_while_it_arrives(app: Any) -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield bytes(1_000_000)

    found = ask(app, "/predict", method="POST", body=endless())
    assert found[0] == 413 and "expected at most 20,000,000 bytes" in told(found)
    assert len(taken) == 21 and LARGEST == 20_000_000


def test_a_body_that_is_announced_too_large_is_not_read(app: Any) -> None:
    def unread() -> Iterator[bytes]:
        yield pytest.fail("the body was read")

    assert ask(app, "/predict", method="POST", body=unread(), Content_Length="20000001")[0] == 413


def test_a_body_that_does_not_arrive_ends(app: Any, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "PATIENCE", 0.05)

    async def slow() -> Answer:
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b"",
            "headers": [(b"host", HERE.encode())], "root_path": "", "scheme": "http", "http_version": "1.1",
        }  # fmt: skip
        await app(scope, receive, send)
        return sent[0]["status"], {}, sent[1]["body"]

    found = asyncio.run(slow())
    assert found[0] == 408 and "did not arrive within 0.05 seconds" in told(found)
    found = ask(app, "/predict", method="POST", gone=True)
    assert found[0] == 400 and "the connection ended" in told(found)


def test_one_image_is_computed_at_a_time_and_few_wait(student: Path) -> None:
    running, most, go = [0], [0], threading.Event()

    class Slow(Predictor):
        def answer(self, data: bytes, *, top_k: int, explain: bool) -> dict[str, Any]:
            running[0] += 1
            most[0] = max(most[0], running[0])
            go.wait(20)
            running[0] -= 1
            return {"classes": []}

    app = make_app(Slow(open_source(find_source(student), device="cpu"), "x"), "127.0.0.1")

    async def many() -> list[Answer]:
        asks = [call(app, "POST", "/predict", [("Host", HERE)], iter([b"x"])) for _ in range(QUEUE + 3)]
        tasks = [asyncio.create_task(one) for one in asks]
        await asyncio.sleep(0.3)
        assert (await call(app, "GET", "/health", [("Host", HERE)], iter([])))[0] == 200
        go.set()
        found = await asyncio.gather(*tasks)
        return [*found, await call(app, "POST", "/predict", [("Host", HERE)], iter([b"x"]))]

    *found, later = asyncio.run(many())
    assert sorted(one[0] for one in found) == [200] * QUEUE + [503] * 3
    refused = next(one for one in found if one[0] == 503)
    assert "too many images are waiting; try again" in told(refused) and refused[1]["retry-after"] == "2"
    assert later[0] == 200 and most == [1]


# Other sites


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.0.7:8000",
                                  "localhost.evil.example:8000", "a@127.0.0.1", "127.0.0.1:x", "", " localhost",
                                  "127.0.0.1/x", "2130706433", "0x7f.1"])  # fmt: skip
def test_dns_rebinding_is_refused_by_the_host(image: Path, app: Any, host: str) -> None:
    """A name that was made to mean this machine is still the Host of the request."""
    for method, target in (("GET", "/"), ("GET", "/about"), ("POST", "/predict")):
        found = ask(app, target, method=method, body=[image.read_bytes()], host=host)
        assert found[0] == 403 and "host name is not served here" in told(found)
    assert ask(app, "/", host=None)[0] == 403


def test_two_hosts_are_refused(app: Any) -> None:
    async def twice() -> Answer:
        return await call(app, "GET", "/about", [("Host", HERE), ("Host", "evil.example")], iter([]))

    assert asyncio.run(twice())[0] == 403


@pytest.mark.parametrize("host", [HERE, "localhost:8000", "LOCALHOST", "[::1]:8000", "127.0.0.1", "127.0.0.2:9000"])
def test_names_of_this_machine_are_served_at_any_port(app: Any, host: str) -> None:
    assert ask(app, "/about", host=host, Origin=f"http://{host}", Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8001", "http://localhost:8000",
                                    "https://127.0.0.1.evil.example", "file://", ""])  # fmt: skip
def test_pages_of_other_sites_are_refused_by_their_origin(image: Path, app: Any, origin: str) -> None:
    found = ask(app, "/predict", method="POST", body=[image.read_bytes()], Origin=origin)
    assert found[0] == 403 and "pages of other sites are refused" in told(found)
    assert "access-control-allow-origin" not in found[1]


def test_requests_that_a_browser_marks_as_of_another_site_are_refused(app: Any) -> None:
    for site in ("cross-site", "same-site"):
        assert ask(app, "/about", Sec_Fetch_Site=site)[0] == 403
        assert ask(app, "/", Sec_Fetch_Site=site)[0] == 200, "a link to the page may be followed"
    assert ask(app, "/about", Sec_Fetch_Site="none")[0] == 200


def test_beyond_this_machine_addresses_and_the_given_name_are_served() -> None:
    assert is_allowed("192.168.0.7:8000", "0.0.0.0") and is_allowed("[fe80::1]:8000", "::")
    assert is_allowed("lab-pc:8000", "lab-pc") and is_allowed("localhost:8000", "0.0.0.0")
    assert not is_allowed("evil.example", "0.0.0.0") and not is_allowed("evil.example", "lab-pc")
    assert not is_allowed("lab-pc", "127.0.0.1")
    assert host_of("a:b") is None and host_of("[::1]:8") == "::1" and is_same_origin("http://A:1", "a:1")


def test_every_response_forbids_what_is_foreign(app: Any) -> None:
    for target, host in (("/", HERE), ("/about", HERE), ("/nothing", HERE), ("/", "evil.example")):
        headers = ask(app, target, host=host)[1]
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert not {"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} & set(" ".join(policy.values()).split())
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"


def test_the_page_has_no_inline_code_and_names_nothing_elsewhere(app: Any) -> None:
    page, style, script = (ask(app, target)[2].decode() for target in ("/", "/page.css", "/page.js"))
    assert ask(app, "/page.js")[1]["content-type"].startswith("text/javascript")
    assert not re.search(r"<script(?! src=\"/page.js\")|<style|\sstyle=|\son\w+=|javascript:", page)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", page + style)
    assert "innerHTML" not in script and "eval" not in script and not re.search(r"https?:", script)
    assert set(re.findall(r"(?:src|href)=\"([^\"]+)\"", page)) == {"/page.css", "/page.js"}
    wanted = set(re.findall(r"part\(\"([\w-]+)\"\)", script))
    assert wanted <= set(re.findall(r"id=\"([\w-]+)\"", page)) and len(wanted) >= 9


# The command


def test_a_port_in_use_is_told(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            TakenError, match=f"port {port} of 127.0.0.1 is in use.*expected a free one; choose another"
        ):
            bind("127.0.0.1", port)
        assert run(["serve", str(student), "--port", str(port)]) == 2
        assert "is in use by another program" in capsys.readouterr().err


@pytest.mark.parametrize(("host", "port", "says"), [("127.0.0.1", 70_000, "expected 0 to 65535"),
                                                    ("192.0.2.1", 0, "expected a name or an address of this machine"),
                                                    ("no-such-host.invalid", 0, "choose another --host")])  # fmt: skip
def test_a_host_or_port_that_cannot_be_bound_is_told(host: str, port: int, says: str) -> None:
    with pytest.raises(InputError, match=says):
        bind(host, port)


def test_without_the_extra_its_name_is_told(
    student: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert run(["serve", str(student)]) == 3
    assert "starlette, uvicorn, which is not installed; get it with: pip install 'lgkd[serve]'" in (
        capsys.readouterr().err
    )


def test_a_broken_image_is_an_error_with_its_reason(predictor: Predictor) -> None:
    with pytest.raises(DataError, match=r"cannot be read \(not an image.*expected.*send"):
        predictor.answer(b"no image", top_k=1, explain=False)


def test_a_server_answers_keeps_nothing_and_ends_by_the_keyboard(student: Path, image: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lgkd", "serve", str(student), "--port", "0", "--device", "cpu"]
    env = {**environment(tmp_path / "home"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            line = server.stdout.readline()
            found = re.match(r"http://127\.0\.0\.1:(\d+)/  Ctrl-C stops it", line)
            assert found, (line, server.poll())
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=120)
            connection.request("POST", "/predict?explain=true", image.read_bytes())
            answer = connection.getresponse()
            assert answer.status == 200 and set(json.loads(answer.read())) == {"classes", "overlay"}
            assert answer.getheader("server") is None
            connection.request("GET", "/", headers={"Host": "evil.example"})
            refused = connection.getresponse()
            assert refused.status == 403 and b"not served here" in refused.read()
            connection.close()
            os.kill(server.pid, signal.SIGINT)
            assert server.wait(60) == 0
            assert "stopped" in (said := server.stderr.read()) and "Traceback" not in said
        finally:
            server.kill()
    assert list(tmp_path.iterdir()) == [], "an image, or a part of one, was stored"


def test_the_student_computes_in_the_thread_of_predictions_without_a_graph(image: Path, predictor: Predictor) -> None:
    with torch.enable_grad():
        found = predictor.answer(image.read_bytes(), top_k=1, explain=True)
    assert list(found) == ["classes", "overlay"] and len(found["classes"]) == 1

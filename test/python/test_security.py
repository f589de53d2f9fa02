"""Files, archives, models and servers made for mischief; and what the package's source may not hold. See also the products' own tests."""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from image_files import write_random

from otbsr.documents import read_document
from otbsr.errors import InputError, ModelError, OtbsrError
from otbsr.evaluation.arms import resolve
from otbsr.evaluation.comparison import read_scenes
from otbsr.evaluation.study import Study, StudySettings
from otbsr.methods.blend import blend
from otbsr.methods.model_folder import ModelFolder
from otbsr.methods.settings import read_settings
from otbsr.products import files, open_product
from otbsr.products.catalogue import files_of
from otbsr.products.download import Remote, fetch, zenodo_files
from otbsr.products.files import read_bytes, read_xml
from otbsr.serving.apply import apply

ROOT = Path(__file__).parents[2]
NEAREST, BICUBIC = ROOT / "models" / "nearest-x4", ROOT / "models" / "bicubic-x4"

# --- the source -------------------------------------------------------------------------------------------------------------------

FORBIDDEN = {
    r"(os\.(system|popen|exec[lv]\w*)|subprocess\.get(status)?output)": {"serving/otb.py"},  # execvpe: becomes OTB's launcher, no shell
    r"(eval|exec|compile|__import__)": set(),
    r"(pickle|cPickle|dill|marshal|shelve|joblib|torch)\.\w+|(pd|pandas)\.read_pickle": {"products/tensor.py"},
    r"yaml\.(?!safe_dump)\w+": {"documents.py", "docs.py"},  # docs.py: a file of the repository
    r"(ElementTree|ET|etree|minidom|sax|lxml\.\w+)\.(parse|fromstring|XML|iterparse|parseString)|XMLParser": set(),
    r"(\w+\.)?(?<!self\.)(extract|extractall|unpack_archive)|tarfile\.\w+": {"bindings/build.py"},  # what the distribution has signed, file by file
    r"tempfile\.mktemp": set(),
}
"""Calls, and the files that may make them."""


def calls(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Dotted name and node of every call."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def dangerous(name: str, source: str) -> list[str]:
    """What a file calls that it may not."""
    found = []
    for called, node in calls(source):
        found += [called for pattern, allowed in FORBIDDEN.items() if re.fullmatch(pattern, called) and name not in allowed]
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else "?"
            if (keyword.arg, value) in (("shell", True), ("shell", "?"), ("allow_pickle", True), ("verify", False), ("safe_mode", False)):
                found.append(f"{called}({keyword.arg}={value})")
    return found


def test_the_source_runs_nothing_that_files_hold() -> None:
    folders = [(ROOT / "python" / "otbsr", "*.py"), (ROOT / "python" / "otbtf", "*.py"), (ROOT / "tools", "*.py"), (ROOT / "benchmark", "*.py")]
    sources = [(path.relative_to(folder).as_posix(), path) for folder, pattern in folders for path in folder.rglob(pattern)]
    assert len(sources) > 90
    assert not {name: bad for name, path in sources if (bad := dangerous(name, path.read_text()))}


@pytest.mark.parametrize(
    "line",
    ["os.system(f'ls {x}')", "subprocess.run(x, shell=True)", "subprocess.run(x, shell=y)", "eval(x)", "exec(x)", "pickle.load(f)",
     "np.load(f, allow_pickle=True)",
     "yaml.load(f, yaml.Loader)", "yaml.unsafe_load(f)", "ElementTree.parse(f)", "ET.fromstring(f)", "archive.extractall(p)", "tarfile.open(f)",
     "requests.get(u, verify=False)", "pd.read_pickle(f)", "keras.models.load_model(f, safe_mode=False)",
     "tempfile.mktemp()"],
)  # fmt: skip
def test_the_search_finds(line: str) -> None:
    assert dangerous("x.py", line) and not dangerous("x.py", "subprocess.run([a, b]); yaml.safe_dump(x); re.compile(y); model.eval()")


def test_models_are_loaded_where_their_hashes_were_checked() -> None:
    """The files that run a SavedModel: the folder's own class, whose `open` checks; training from a folder, which opens it so; and the import."""
    pattern = re.compile(r"saved_model\.load|saved_model\.loader|load_model\(|\"SuperResolution\", \{")
    found = {path.name for path in (ROOT / "python" / "otbsr").rglob("*.py") if pattern.search(path.read_text())}
    assert found == {"model_folder.py", "checkpoints.py", "import_model.py", "apply.py"}


# --- models -----------------------------------------------------------------------------------------------------------------------


def image(path: Path, side: int = 40) -> Path:
    """A random 4-band image."""
    return write_random(path, side, side)


def chunked(model: Path) -> None:
    (model / "saved_model.cpb").write_bytes(b"x")


def variables(model: Path) -> None:
    (model / "variables").mkdir(exist_ok=True)
    (model / "variables" / "variables.more").write_bytes(b"x")


def deep(model: Path) -> None:
    (model / "assets" / "a").mkdir(parents=True)
    (model / "assets" / "a" / "vocabulary").write_bytes(b"x")


def linked_folder(model: Path) -> None:
    (model / "assets").mkdir()
    (model / "assets" / "more").symlink_to(BICUBIC)


def linked_file(model: Path) -> None:
    (model / "saved_model.pb").unlink()
    (model / "saved_model.pb").symlink_to(BICUBIC / "saved_model.pb")


TAMPERED = [
    (chunked, r"no sha256 of saved_model\.cpb"),
    (variables, r"no sha256 of variables/variables\.more"),
    (deep, r"no sha256 of assets/a/vocabulary"),
    (linked_folder, r"no sha256 of assets/more"),
    (linked_file, r"saved_model\.pb: sha256 is"),
]


@pytest.mark.parametrize(("change", "message"), TAMPERED)
def test_models_with_other_files_are_not_run(tmp_path: Path, change: Callable[[Path], None], message: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(NEAREST, model)
    ModelFolder.open(model)
    change(model)
    source, out = image(tmp_path / "lr.tif"), tmp_path / "sr.tif"
    runs: list[Callable[[], object]] = [
        lambda: apply(source, model, out),
        lambda: apply(source, NEAREST, out, against=model),
        lambda: blend(NEAREST, model, 0.5, tmp_path / "blend"),
        lambda: Study([], [], resolve(["f"], {}, model, None), StudySettings(), tmp_path / "study"),
        lambda: Study([], [], resolve(["g"], {"g": {"model": str(model)}}, None, None), StudySettings(), tmp_path / "study"),
    ]
    for run in runs:
        with pytest.raises(ModelError, match=message):
            run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr.tif", "model"]
    if change is not linked_file:  # which files there are can be trusted, another content than the sidecar's cannot
        assert ModelFolder.open(model, trust=True).sidecar.name == "nearest-x4"
        Study([], [], resolve(["f"], {}, model, None), StudySettings(), tmp_path / "study", True)
    else:
        with pytest.raises(ModelError, match=message):
            ModelFolder.open(model, trust=True)


def test_links_to_the_hashed_content_are_that_content(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(NEAREST, model)
    (model / "saved_model.pb").rename(tmp_path / "blob")
    (model / "saved_model.pb").symlink_to(tmp_path / "blob")
    assert ModelFolder.open(model).sidecar.name == "nearest-x4"


def test_no_setting_trusts_a_model(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("trust_model: true\n")
    with pytest.raises(OtbsrError, match="trust_model"):
        StudySettings.read(tmp_path / "s.yaml")


# --- XML, zip, YAML ---------------------------------------------------------------------------------------------------------------

LAUGHS = "<!DOCTYPE a [<!ENTITY l0 'ha'>" + "".join(f"<!ENTITY l{i} '{f'&l{i - 1};' * 10}'>" for i in range(1, 10)) + "]><a>&l9;</a>"


@pytest.mark.parametrize("text", [LAUGHS, "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>", "<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/a.dtd'><a/>",
     "<!DOCTYPE a [<!ENTITY % x SYSTEM 'file:///etc/passwd'> %x;]><a/>", f"<!DOCTYPE a [<!ENTITY x '{'b' * 1_000_000}'>]><a>{'&x;' * 10_000}</a>"])  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(text.encode(encoding))
    begin = time.monotonic()
    with pytest.raises(InputError, match="document type or entities"):
        read_xml(path)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("name", ["S2A_X.SAFE/MTD_MSIL2A.xml", "DIM_SPOT6_A.XML", "SENTINEL2A_20230821-105629-123_L2A_T31TCJ_C_V3-1_MTD_ALL.xml"])
def test_every_reader_of_products_refuses_entities(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(LAUGHS)
    image(tmp_path / "SENTINEL2A_20230821-105629-123_L2A_T31TCJ_C_V3-1_FRE_B4.tif") if "ALL" in name else None
    with pytest.raises(InputError, match="document type or entities"):
        open_product(path.parent if path.parent != tmp_path or "ALL" in name else path)


def test_zip_that_unpacks_to_more_than_products_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    monkeypatch.setattr(files, "UNSUSPECTED", 1 << 24)  # of 1 GiB: it takes a while to make such archives
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.tif", "w", force_zip64=True) as file:
        piece = bytes(1 << 24)
        for _ in range(3):
            file.write(piece)
    with pytest.raises(InputError, match=r"holds 0\.1 GB in 0\.000 GB, which no product does"):
        files.archive_names(path)


def test_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    """20 MiB that the directory calls 10 bytes: no more than that is unpacked."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.xml", b"<a>" + b" " * (20 << 20) + b"</a>")
    content = path.read_bytes()
    real, lie = struct.pack("<L", (20 << 20) + 7), struct.pack("<L", 10)
    assert content.count(real) == 2
    path.write_bytes(content.replace(real, lie))
    with pytest.raises(InputError, match=r"cannot be read|metadata"):
        read_xml(Path(f"/vsizip/{{{path}}}/a.xml"))
    with pytest.raises(InputError):
        read_bytes(Path(f"/vsizip/{{{path}}}/a.xml"))


def test_links_in_archives_are_refused(tmp_path: Path) -> None:
    entry = zipfile.ZipInfo("S2A_X.SAFE/MTD_MSIL2A.xml")
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(InputError, match=r"MTD_MSIL2A\.xml is a link"):
        open_product(tmp_path / "a.zip")


BILLION = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BILLION, "values, counting what aliases repeat"),
        ("a: &a {b: *a}", "alias of what holds it"),
        ("[" * 100_000, "nested too deep"),
        ("- a\n" * 200_000, "more than 50000 values"),
        ("a: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("#" * (2 << 20), "longer than 1 MiB"),
        ("a: \x00", "special characters"),
    ],
)
@pytest.mark.parametrize("read", [StudySettings.read, read_scenes, read_settings, lambda path: read_document(path, "anything")])
def test_yaml_for_mischief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.yaml"
    path.write_text(text)
    begin = time.monotonic()
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert time.monotonic() - begin < 10 and len(str(caught.value)) < 600 and "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_json_and_ordinary_aliases(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deep"):
        read_document(tmp_path / "a.json", "anything")
    (tmp_path / "a.yaml").write_text("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n")
    assert read_document(tmp_path / "a.yaml", "anything") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}


# --- servers ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def redirecting() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that sends /to/X on to X; what it was asked: (path, Authorization)."""
    asked: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Authorization")))
            self.send_response(302 if self.path.startswith("/to/") else 200)
            if self.path.startswith("/to/"):
                self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "1")
            self.end_headers()
            self.wfile.write(b"x")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/a"])
def test_redirects_lead_to_no_file(tmp_path: Path, redirecting: tuple[str, list], target: str) -> None:
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch(Remote(f"{redirecting[0]}/to/{target}", "a"), tmp_path, wait=0)
    with pytest.raises(InputError, match="cannot be fetched"):
        fetch(Remote(target, "a"), tmp_path, wait=0)
    assert not list(tmp_path.iterdir())


def test_a_token_is_not_sent_on(tmp_path: Path, redirecting: tuple[str, list]) -> None:
    url, asked = redirecting
    other = url.replace("127.0.0.1", "localhost")
    fetch(Remote(f"{url}/to/{other}/b", "a"), tmp_path, {"Authorization": "Bearer secret"}, wait=0)
    assert asked == [(f"/to/{other}/b", "Bearer secret"), ("/b", None)]


@pytest.mark.parametrize("name", ["../a.zip", "/etc/a.zip", "a\\b.zip", "..", "a\x00"])
def test_names_from_servers_stay_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Answer:
        def raise_for_status(self) -> None:
            pass

        def json(self) -> object:
            return {"files": [{"key": name, "size": 1, "links": {"self": "http://127.0.0.1:9/a"}}]}

    monkeypatch.setattr("otbsr.products.download.requests.get", lambda *_, **__: Answer())
    with pytest.raises(InputError, match="leads out of the folder"):
        zenodo_files("1")
    quoted = name.replace("/", "%2F").replace("\\", "%5C").replace("\x00", "%00")
    with pytest.raises(InputError, match=r"leads out of the folder|http\(s\)"):
        files_of({"id": "i", "assets": {"p": {"href": f"http://127.0.0.1:9/x/{quoted}", "type": "application/zip"}}})
    with pytest.raises(InputError, match=r"expected an http\(s\) address"):
        files_of({"id": "i", "assets": {"p": {"href": "file:///etc/passwd", "type": "application/zip"}}})


# --- no network -------------------------------------------------------------------------------------------------------------------

REFUSING = """
import os, socket
def refuse(*words, **more):
    with open(os.environ["ASKED"], "a") as file:
        print(words, file=file)
    raise OSError("this test has no network")
socket.getaddrinfo = socket.create_connection = refuse
class Refusing(socket.socket):
    def connect(self, address):
        return super().connect(address) if self.family == socket.AF_UNIX else refuse(address)
socket.socket = Refusing
"""


@pytest.mark.usefixtures("serving")
def test_commands_ask_no_network(tmp_path: Path) -> None:
    """In a network namespace without any, where Python's sockets note who asks."""
    if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode:
        pytest.skip("namespaces are not allowed here")
    (tmp_path / "sitecustomize.py").write_text(REFUSING)
    asked = tmp_path / "asked"
    paths = os.pathsep.join([str(tmp_path), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "ASKED": str(asked)}

    def run(*words: object, status: int = 0) -> None:
        given = ["unshare", "-n", sys.executable, "-m", "otbsr", *map(str, words)]
        done = subprocess.run(given, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
        assert done.returncode == status, (words, done.stderr)

    run("doctor")
    run("simulate", "world", "--extent", 480, "--products", "safe", "--quiet")
    run("products", "info", next((tmp_path / "world").rglob("*.SAFE")))
    run("apply", "world/sentinel2_10m.tif", "--model", NEAREST, "-o", "sr.tif", "--quiet")
    run("quality", "sr.tif", "--reference", "world/spot_2m5.tif", "--input", "world/sentinel2_10m.tif", "--scores", "basic", "--quiet")
    run("classify", "sr.tif", "--polygons", "world/polygons.gpkg", "-o", "map.tif", "--quiet", "--samples", 20)
    assert not asked.exists(), asked.read_text()
    run("products", "search", "sr.tif", "--catalogue", "http://127.0.0.1:9/", "--date", "2023-06-14", "--quiet", status=65)
    assert asked.exists(), "this is how it would be noticed"

"""What is shipped: version, release notes, the public CI's files, the container's parts, the wheel."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import typer

from otbsr import shell
from otbsr.cli import app

ROOT = Path(__file__).parents[2]


def tool(name):
    """tools/`name`.py as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release_notes = tool("release_notes")

CHANGES = "# Changelog\n## Unreleased\n### Added\n- One.\n\n## 0.1.0 (2026-01-02)\n- Zero.\n"


def test_a_release_takes_what_is_unreleased():
    closed = release_notes.close(CHANGES, "v0.2.0", "2026-12-01")
    assert release_notes.notes(closed, "v0.2.0") == "### Added\n- One."
    assert release_notes.notes(closed, "v0.1.0") == "- Zero."
    assert closed.index("## Unreleased") < closed.index("## 0.2.0 (2026-12-01)") < closed.index("## 0.1.0")


@pytest.mark.parametrize(("action", "words"), [("notes v9.0.0", "nothing about 9.0.0"), ("close v0.1.0", "already"), ("close 2", "such as v0.2.0")])
def test_releases_that_cannot_be(action, words):
    verb, tag = action.split()
    with pytest.raises(ValueError, match=words):
        release_notes.notes(CHANGES, tag) if verb == "notes" else release_notes.close(CHANGES, tag, "2026-12-01")


def test_the_changelog_can_be_released():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert release_notes.notes(release_notes.close(text, "v99.0.0", "2026-12-01"), "v99.0.0")


def test_the_version_is_the_tag(tmp_path):
    """The project's own settings, in a repository with a tag, after a commit, and without git."""
    pytest.importorskip("setuptools_scm")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def git(*words):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True, capture_output=True)

    def version():
        code = "from setuptools_scm import Configuration, _get_version; print(_get_version(Configuration.from_file('pyproject.toml')))"
        return subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    fallback = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools_scm"]["fallback_version"]
    if not any((folder / ".git").exists() for folder in tmp_path.parents):
        assert version() == fallback
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"], ["tag", "v1.2.3"]):
        git(*words)
    assert version() == "1.2.3"
    git("commit", "-qm", "b", "--allow-empty")
    assert version().startswith("1.2.4.dev1+g")


def test_the_workflow_keeps_to_its_schema():
    pytest.importorskip("check_jsonschema")
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([sys.executable, *words, str(ROOT / ".github" / "workflows" / "ci.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_runs_what_exists():
    import yaml

    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    local = {line.split()[1] for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")}
    steps = set(jobs["test"]["strategy"]["matrix"]["step"])
    assert steps == local
    lines = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    for name in (word for line in lines for word in line.split() if word.startswith(("tools/", "test/"))):
        assert (ROOT / name).is_file(), name
    named = steps | {name for line in lines for name in re.findall(r"\bmake ([a-z-]+)", line.replace("install -y --no-install-recommends", ""))}
    assert named - {"python"} <= targets(), named
    known = {name for _, names in shell.MAP for name in names}
    assert {name for line in lines for name in re.findall(r"\botbsr (?=[a-z])([a-z-]+)", line)} <= known
    for job in jobs.values():
        assert set([job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])) <= set(jobs)


def targets():
    """The Makefile's targets."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def code_of(path):
    """The code in a page: what stands between backquotes, and the lines of its blocks, fenced or indented."""
    text = path.read_text(encoding="utf-8")
    blocks = [*re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S), "\n".join(re.findall(r"^ {4}(\S.*)$", text, re.M))]
    return [
        *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)),
        *(line for block in blocks for line in block.replace("\\\n", " ").splitlines()),
    ]


PAGES = [path for folder in (".", "doc", "models") for path in sorted((ROOT / folder).glob("*.md"))]


def test_every_make_target_that_is_named_exists():
    places = [(path.name, code) for path in PAGES for code in code_of(path)]
    places += [(path.name, line) for path in (ROOT / ".ci" / "run", *(ROOT / "tools").glob("*.sh")) for line in path.read_text().splitlines()]
    places += [(path.name, code) for path in (ROOT / "python" / "otbsr").rglob("*.py") for code in re.findall(r"`(make [^`]+)`", path.read_text())]
    named = [(where, name) for where, code in places if code.startswith("make ") for name in code.partition("&&")[0].split()[1:] if "=" not in name]
    assert len(named) > 30
    assert not [(where, name) for where, name in named if name not in targets()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_that_a_page_shows_takes_its_flags(page):
    """Lines of code that begin with otbsr: names of commands, flags, values."""
    program = typer.main.get_command(app)
    for code in code_of(page):
        line = code.split("#")[0].partition("&&")[0].removeprefix(".venv/bin/").strip()
        words = shlex.split(line) if line.startswith("otbsr ") and "..." not in line and not re.search(r"\b[A-Z]{3,}\b", line) else []
        command, taken = program, words[1:]
        while taken and not taken[0].startswith("-") and hasattr(command, "commands"):
            assert taken[0] in command.commands, (page, code)
            command, taken = command.commands[taken[0]], taken[1:]
        flags = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "--install-completion"}
        for flag in taken:
            assert not flag.startswith("-") or flag.partition("=")[0] in flags, (page, code, flag)


def test_every_otbcli_line_of_a_page_gives_parameters_that_exist(run_application):
    """Lines of code with otbcli_ of an application of ours or OTB's: keys of its parameters, and all that it cannot do without."""
    docs, lines = tool("docs"), [(page.name, code.split("#")[0]) for page in PAGES for code in code_of(page)]
    lines = [(page, shlex.split(code)) for page, code in lines if re.match(r"otbcli_\w+ -", code)]
    assert {words[0] for _, words in lines} >= {"otbcli_SuperResolution", "otbcli_TensorflowModelServe", "otbcli_ConcatenateImages"}
    for page, (program, *words) in lines:
        listed = docs.ask(program.removeprefix("otbcli_"))
        keys = {key for key, _, _ in docs.parameters(listed)} | {"help", "progress"}
        given = {word[1:] for word in words if re.match(r"-[a-z]", word)}
        assert given <= keys, (page, program, given - keys)
        mandatory = set(re.findall(r"^MISSING -(\S+)", listed, re.M))
        assert mandatory <= given or "help" in given or "..." in words, (page, program, mandatory - given)


def test_the_container_copies_and_installs_what_exists():
    docker, recipe = (ROOT / "Dockerfile").read_text(), (ROOT / "otbsr.def").read_text()
    for text in (docker, recipe):
        assert "container.sh build /src /wheels" in text and "container.sh run /wheels /opt/otbsr/setup/constraints.txt" in text
    assert docker.index("USER otbsr") > docker.index("container.sh run") and docker.count("FROM") == 2
    assert not re.search(r"^    \S+ /tmp", recipe, re.M)  # Apptainer lays the machine's own over it while %post runs
    for name in ("tools/container.sh", "constraints.txt", "models"):
        assert (ROOT / name).exists() and name in docker and name in recipe
    system = (ROOT / "tools" / "system-packages.sh").read_text().partition('packages="')[2].partition('"')[0].split()
    built = (ROOT / "tools" / "container.sh").read_text().partition("build)")[2].partition("python3 -m venv")[0]
    assert all(name in built for name in system)
    for name in re.findall(r"^    (\S+) /(?:src|tmp|opt)", recipe.partition("%post")[0], re.M):
        assert (ROOT / name).exists(), name
    for script in ("container.sh", "image.sh", "test-container.sh", "wheel.sh"):
        assert subprocess.run(["sh", "-n", str(ROOT / "tools" / script)]).returncode == 0


@pytest.mark.slow
def test_a_wheel_works_in_an_empty_environment():
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "OTBSR_APPLICATIONS")}
    done = subprocess.run(["sh", str(ROOT / "tools" / "wheel.sh")], capture_output=True, text=True, env={**environment, "PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "the wheel works" in done.stdout


def test_pip_knows_what_the_package_needs():
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    wanted = [*metadata["project"]["dependencies"], *metadata["build-system"]["requires"], *metadata["project"]["optional-dependencies"]["test"]]
    names = {json.dumps(text).strip('"').split(">")[0].split("=")[0].split("[")[0].lower().replace("_", "-") for text in wanted}
    assert names <= pinned | {"scikit-build-core"}, names - pinned

"""Compile OTB's own Python bindings for the Python that runs this, from the distribution's source package (`make bindings`).

Debian's packages of OTB leave the bindings out, but its source package has them. apt, with an index of its own in the work folder (nothing
of the system is changed, no root is needed), checks the signature and says where the package is and its checksum; the download goes on
where it was cut. Only the wrapper's few files are kept of it. A step whose result is there is not done again.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "python"))
from otbsr.errors import OtbsrError  # noqa: E402
from otbsr.products.download import Remote, fetch  # noqa: E402
from otbsr.progress import bars  # noqa: E402

WRAPPER = "Modules/Wrappers/SWIG/src"


class BindingsError(Exception):
    """What is missing, and how to get it."""


def run(words: Sequence[str | Path], log: Path, folder: Path | None = None) -> str:
    """A command's standard output; `BindingsError` with its last lines when it fails. All it prints goes into `log`."""
    done = subprocess.run([str(word) for word in words], cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    with log.open("a") as file:
        file.write(f"$ {' '.join(map(str, words))}\n{done.stdout}{done.stderr}\n")
    if done.returncode != 0:
        told = (done.stdout + done.stderr).strip().splitlines()
        raise BindingsError("\n".join([f"{words[0]} failed (its log: {log}):", *told[-12:]]))
    return done.stdout


def installed_source(log: Path) -> tuple[str, str]:
    """Name and version of the source package that the installed libotb-dev was made of."""
    try:
        name, version = run(["dpkg-query", "-W", "-f", "${source:Package} ${source:Version}", "libotb-dev"], log).split()
    except (BindingsError, FileNotFoundError, ValueError) as error:
        raise BindingsError("Debian's libotb-dev is not installed; OTB's own binary packages bring their bindings with them (see doc/python.md)") from error
    return name, version


def source_line(version: str, log: Path) -> str:
    """The deb-src line of the place that the installed libotb-dev can be had from."""
    for line in run(["apt-cache", "madison", "libotb-dev"], log).splitlines():
        _, offered, origin = (part.strip() for part in line.split("|"))
        address, place, *rest = origin.split()
        if offered.startswith(version) and rest[-1:] == ["Packages"]:
            suite, _, component = place.rpartition("/")
            return f"deb-src {address} {suite} {component}\n"
    raise BindingsError(f"apt does not know where libotb-dev {version} comes from; run `apt-get update` (as root), then this again")


def download(name: str, version: str, work: Path, log: Path) -> Path:
    """The source package's tar file in `work`, checked against the checksum in the signed index."""
    apt = work / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    (apt / "sources.list").write_text(source_line(version, log))
    settings = {
        "Dir::State": apt / "state",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::SourceList": apt / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Sandbox::User": "root",  # the work folder may be closed to apt's own user
        "Acquire::Retries": "5",
    }
    get = ["apt-get", "--quiet", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]
    run([*get, "update"], log)
    told = run([*get, "source", "--print-uris", "--only-source", f"{name}={version}"], log, work)
    files = re.findall(r"^'([^']+)' (\S+\.orig\.tar\.\w+) (\d+) SHA256:(\w+)$", told, re.MULTILINE)
    if not files:
        raise BindingsError(f"apt names no tar file with a SHA256 for the source of {name} {version}; its log: {log}")
    address, file, size, digest = files[0]
    # apt-get itself begins a download that was cut from its first byte again
    with bars(quiet=not sys.stderr.isatty()) as report:
        return fetch(Remote(address, file, int(size), f"sha256:{digest}"), work, report=report)


def wrapper(work: Path, log: Path) -> Path:
    """The folder of the wrapper's source, downloaded and unpacked when it is not there."""
    name, version = installed_source(log)
    folder = work / f"swig-{version}"
    if not folder.is_dir():
        print(f"downloading the source of OTB {version} (about 700 MB) into {work}", flush=True)
        tar = download(name, version, work, log)
        part = work / "swig.part"
        shutil.rmtree(part, ignore_errors=True)
        print("unpacking the wrapper's source from it (about a minute)", flush=True)
        with tarfile.open(tar) as archive:
            found = False
            for member in archive:  # in the archive's order: what follows the folder need not be decompressed
                inside = member.name.partition(WRAPPER)[2] if f"{WRAPPER}/" in member.name else ""
                if inside and member.isfile() and ".." not in Path(inside).parts:
                    found = True
                    target = part / inside.lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    source = archive.extractfile(member)
                    target.write_bytes(source.read() if source else b"")
                elif found and "Modules/Wrappers/SWIG" not in member.name:
                    break
        if not (part / "otbApplication.i").is_file():
            raise BindingsError(f"{tar} has no {WRAPPER}/otbApplication.i")
        part.rename(folder)
        shutil.rmtree(work / "apt")
        for left in work.glob(f"{name}_*"):  # 700 MB; needed again only for another version
            left.unlink()
    return folder


def build(work: Path) -> Path:
    """Build and install the module into this Python's site-packages; its path."""
    work.mkdir(parents=True, exist_ok=True)
    log = work / "log.txt"
    log.unlink(missing_ok=True)
    source, place = wrapper(work, log), Path(sysconfig.get_path("platlib"))
    print("compiling the bindings (about two minutes)", flush=True)
    made = work / "build"
    chosen = [f"-DPython3_EXECUTABLE={sys.executable}", f"-DOTB_SWIG={source}", f"-DMODULE_DIR={place}", "-DCMAKE_BUILD_TYPE=Release"]
    run(["cmake", "-S", HERE, "-B", made, *chosen], log)
    run(["cmake", "--build", made, "--parallel", str(min(4, os.cpu_count() or 1))], log)
    run(["cmake", "--install", made], log)
    run([sys.executable, "-c", "import otbApplication; otbApplication.Registry.GetAvailableApplications()"], log)
    return place / "otbApplication.py"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build-bindings"), help="folder for the source and the build")
    try:
        print(f"{build(parser.parse_args().work.resolve())}: ready; `import otbApplication` finds it")
    except (BindingsError, OtbsrError, OSError) as error:
        raise SystemExit(f"make bindings: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("make bindings: interrupted; the same command goes on") from None


if __name__ == "__main__":
    main()

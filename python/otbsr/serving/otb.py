"""Run an OTB application and know whether it worked: the only file that starts OTB.

OTB's exit status is not enough (0 on a full disk, with a truncated image left behind) and its progress bar is drawn only on a
terminal. So the application gets a pseudo-terminal, its log is read for errors, and its products are opened.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

from otbsr.errors import MissingToolError, OtbsrError, OutputError, ProcessingError
from otbsr.progress import Report, silent

LAUNCHER = "otbApplicationLauncherCommandLine"
APT = "apt-get install otb-bin"
SOURCES = "OTB_TF_NSOURCES"
"""Environment variable with the number of sources of PatchesExtraction and TensorflowModelServe."""
SUFFIXES_OF_TEXT = {".csv", ".xml", ".txt", ".json", ".model", ".rf", ".svm"}

BAR = re.compile(rb"\r([^\r\n]*?): (\d{1,3})% \[")
LOG_ERROR = re.compile(r"\(FATAL\)|\(CRITICAL\)|^ERROR( \d+)?:")
LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \((?:FATAL|CRITICAL)\)\s*|^ERROR( \d+)?:\s*|itk::ERROR: ?|(?<=: )\w+\(0x[0-9a-f]+\): ")
NO_SPACE = re.compile(r"no space left|disk full|write error|quota exceeded|unable to commit transaction|_tiffWriteProc", re.IGNORECASE)
UNWRITABLE = re.compile(
    r"attempt to create|read-only file system|cannot (?:be )?(?:write|written|create)|unable to (?:write|create)|not writable", re.IGNORECASE
)
NO_TENSORFLOW = re.compile(r"tensorflow.*(?:librar|not found|cannot be loaded|could not be loaded)|libtensorflow", re.IGNORECASE)

RECORD: ContextVar[list[str] | None] = ContextVar("record", default=None)
"""Where `run_otb` writes the lines that it would run, while `recording`."""

Value = object
"""A parameter's value: str, Path, number, bool, or a sequence of them."""


def application_folder() -> Path:
    """The folder of our own OTB applications (otbapp_*.so): OTBSR_APPLICATIONS, the installed package's, or build/applications.

    Raises `MissingToolError` when there is none.
    """
    chosen = os.environ.get("OTBSR_APPLICATIONS")
    package = Path(__file__).resolve().parents[1]
    folders = [Path(chosen)] if chosen else [package / "applications", package.parents[1] / "build" / "applications"]
    for folder in folders:
        if any(folder.glob("otbapp_*.so")):
            return folder
    raise MissingToolError(
        f"no otbsr applications (otbapp_*.so) in {' or '.join(map(str, folders))}; run `pip install .`, or set OTBSR_APPLICATIONS to their folder"
    )


def system_folders() -> list[Path]:
    """OTB's own application folders: next to the launcher (OTB's binary packages) and where Debian puts them."""
    launcher = shutil.which(LAUNCHER)
    folders = sorted(Path("/usr/lib").glob("*/otb/applications"))
    if launcher:
        folders.insert(0, Path(launcher).resolve().parents[1] / "lib" / "otb" / "applications")
    return [folder for folder in folders if folder.is_dir()]


def tensorflow_library() -> Path | None:
    """The shared library in TensorFlow's wheel for this Python, without importing TensorFlow; None when it is not installed."""
    spec = importlib.util.find_spec("tensorflow")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for library in sorted(Path(folder).glob("libtensorflow_cc.so.*")):
            return library
    return None


def otb_environment() -> dict[str, str]:
    """The environment in which OTB finds our applications, its own, and TensorFlow.

    OTB_APPLICATION_PATH: ours, then what the user had set, then the system's. OTB_TF_LIBRARY: the user's, else the wheel's.
    GDAL and PROJ folders of Python wheels are removed: they belong to another version than OTB's GDAL.
    """
    environment = dict(os.environ)
    folders = []
    with contextlib.suppress(MissingToolError):  # OTB's own applications work without ours; a missing one is reported by name
        folders.append(str(application_folder()))
    folders += [folder for folder in environment.get("OTB_APPLICATION_PATH", "").split(":") if folder]
    folders += map(str, system_folders())
    environment["OTB_APPLICATION_PATH"] = ":".join(dict.fromkeys(folders))
    if "OTB_TF_LIBRARY" not in environment and (library := tensorflow_library()):
        environment["OTB_TF_LIBRARY"] = str(library)
    for name in ("GDAL_DATA", "PROJ_LIB", "PROJ_DATA"):
        if "site-packages" in environment.get(name, ""):
            del environment[name]
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return environment


def load_bindings() -> ModuleType:
    """OTB's own Python bindings (`otbApplication`) in this process, whose environment is set so that they find what `otb_environment` names.

    `import pyotb` after this call works as well. Call this before threads start that load libraries: where TensorFlow is loaded already, OTB's
    libraries are bound to their own dependencies first, or the system's GDAL would use TensorFlow's SQLite, which has no spatial index.
    Raises `MissingToolError` when the bindings or our applications are not installed.
    """
    application_folder()
    environment = otb_environment()
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    flags = sys.getdlopenflags()
    try:
        if "tensorflow" in sys.modules:
            sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
        return importlib.import_module("otbApplication")
    except ImportError as error:
        raise MissingToolError(
            f"OTB's Python bindings cannot be imported ({error}); run `make bindings`, or put the folder of your OTB's otbApplication.py on PYTHONPATH"
        ) from error
    finally:
        sys.setdlopenflags(flags)


def command_line(application: str, parameters: Mapping[str, Value]) -> list[str]:
    """The launcher's argument list (never a shell's string); True and False become 1 and 0."""

    def word(value: object) -> str:
        return str(int(value)) if isinstance(value, bool) else str(value)

    words = [LAUNCHER, application]
    for key, value in parameters.items():
        if value is None:
            continue
        words.append(f"-{key}")
        words += map(word, value) if isinstance(value, Sequence) and not isinstance(value, str) else [word(value)]
    return words


def shell_line(application: str, parameters: Mapping[str, Value], threads: int | None = None) -> str:
    """What a person types into a shell for the same run: quoted, with the number of threads and of sources before it."""
    before = [f"ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS={threads}"] if threads else []
    if sources := os.environ.get(SOURCES):  # an application's parameters depend on it
        before.append(f"{SOURCES}={sources}")
    return " ".join([*before, shlex.join([f"otbcli_{application}", *command_line(application, parameters)[2:]])])


@contextlib.contextmanager
def recording() -> Iterator[list[str]]:
    """Within it `run_otb` runs nothing in this thread: the yielded list gets its lines, as `shell_line` writes them."""
    lines: list[str] = []
    token = RECORD.set(lines)
    try:
        yield lines
    finally:
        RECORD.reset(token)


def run_otb(
    application: str,
    parameters: Mapping[str, Value],
    report: Report = silent,
    products: Sequence[str | Path] = (),
    step: str = "",
    threads: int | None = None,
) -> str:
    """Run an OTB application to its end and return its log.

    parameters: key (without dash) to value; lists become several words, None is left out. An image parameter's pixel type is a
        word after it: ``{"out": [path, "uint8"]}``.
    products: files that must be there and whole afterwards: rasters by extension, texts not empty.
    step: the progress bar's name; default the application's. threads: limit of ITK's threads.

    Raises `MissingToolError` (OTB, the application or TensorFlow is not there), `OutputError` (disk full, product missing, cut or
    unwritable) or `ProcessingError` (anything else the log calls an error), with the log's first error in one line. On an
    interrupt the application and its children are ended. While `recording`, nothing runs. The environment variable OTBSR_COMMANDS names a file
    to which the lines that run are appended.
    """
    if (record := RECORD.get()) is not None:
        record.append(shell_line(application, parameters, threads))
        return ""
    if log_file := os.environ.get("OTBSR_COMMANDS"):
        with contextlib.suppress(OSError), open(log_file, "a", encoding="utf-8") as file:
            file.write(shell_line(application, parameters, threads) + "\n")
    environment = otb_environment()
    if threads:
        environment["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(threads)
    if not shutil.which(LAUNCHER, path=environment.get("PATH")):
        raise MissingToolError(f"{LAUNCHER} is not in PATH: OTB is missing; install it: {APT}")
    step = step or application
    report(step, 0.0)
    status, log = follow([*mortal(), *command_line(application, parameters)], environment, report, step)
    errors = [line for line in log.splitlines() if LOG_ERROR.search(line)]
    if any("Could not find application" in line for line in errors):
        where = environment["OTB_APPLICATION_PATH"]
        raise MissingToolError(
            f"OTB application {application} is not in {where or 'OTB_APPLICATION_PATH (empty)'}; install otbsr (pip install .) or OTB ({APT})"
        )
    if status != 0 or errors:
        raise failure(application, status, errors, log, products)
    for product in products:
        if reason := product_damage(Path(product)):
            raise OutputError(f"{product}: {reason} although {application} ended well; check the free space and run it again")
    report(step, 1.0)
    return log


def mortal() -> list[str]:
    """Words before a command that end it when this process is killed: nobody would read its result (util-linux; none where it is missing)."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


def follow(words: Sequence[str], environment: Mapping[str, str], report: Report, step: str) -> tuple[int, str]:
    """Start a command on a pseudo-terminal, report its bars, return (exit status, log without the bars' redraws)."""
    try:
        master, slave = pty.openpty()
    except OSError:  # no pseudo-terminals here (a bare chroot): the bars come late, the log is the same
        master, slave = os.pipe()
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=slave, stderr=subprocess.STDOUT, env=dict(environment), start_new_session=True)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    log, seen = bytearray(), 0
    try:
        while True:
            try:
                data = os.read(master, 65536)
            except OSError:  # EIO: the last writer has closed its end
                break
            if not data:
                break
            log += data
            for match in BAR.finditer(log, seen):
                report(step, min(int(match.group(2)), 99) / 100)
                seen = match.end()
        status = process.wait()
    except BaseException:
        end(process)
        raise
    finally:
        os.close(master)
    text = re.sub(rb"[^\n]*\r(?!\n)", b"", bytes(log).replace(b"\r\n", b"\n"))
    return status, text.decode(errors="replace")


def end(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """End a process and its children: SIGTERM, and SIGKILL when they outlive `patience` seconds."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if process.poll() is not None:
                return
            time.sleep(0.05)


def failure(application: str, status: int, errors: Sequence[str], log: str, products: Sequence[str | Path]) -> ProcessingError | OutputError | MissingToolError:
    """The error that fits a failed run, with the log's most telling line."""
    if any(NO_SPACE.search(line) for line in errors) or (not errors and any(full(Path(product)) for product in products)):
        where = ", ".join(map(str, products)) or "its product"
        return OutputError(f"{where}: no space left on the device; free some space or choose another folder, then run it again")
    fatal = [line for line in errors if "(FATAL)" in line] or list(errors)
    if fatal:
        message = LOG_PREFIX.sub("", fatal[0]).strip()
        message = message if message.startswith(application) else f"{application}: {message}"
    else:
        last = next((line for line in reversed(log.splitlines()) if line.strip()), "no log")
        killed = " (somebody killed it, or the system because its memory ran out: lower --max-memory)" if -status == signal.SIGKILL else ""
        message = f"{application}: ended by signal {-status}{killed}" if status < 0 else f"{application}: exit status {status}: {last.strip()}"
    if NO_TENSORFLOW.search(message):
        return MissingToolError(message)
    return OutputError(message) if any(UNWRITABLE.search(line) for line in errors) else ProcessingError(message)


def full(path: Path, least: int = 1 << 20) -> bool:
    """Whether fewer than `least` bytes are free where `path` was to be written."""
    try:
        usage = shutil.disk_usage(path.parent)
    except OSError:
        return False
    return usage.free < least


def product_damage(path: Path) -> str:
    """What is wrong with an application's product, '' when nothing is."""
    if not path.exists():
        return "was not written"
    if path.stat().st_size == 0:
        return "is empty"
    from otbsr.raster import damage  # not above: `otbcli` needs no rasterio, which takes longer to load than OTB to start

    return "" if path.suffix.lower() in SUFFIXES_OF_TEXT else damage(path)


def otbcli() -> None:
    """Entry point of the otbcli_* commands: become OTB's launcher with the application of the command's name."""
    try:
        environment = otb_environment()
        if not shutil.which(LAUNCHER, path=environment.get("PATH")):
            raise MissingToolError(f"{LAUNCHER} is not in PATH: OTB is missing; install it: {APT}")
    except OtbsrError as error:
        print(f"otbsr: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    os.execvpe(LAUNCHER, [LAUNCHER, Path(sys.argv[0]).name.removeprefix("otbcli_"), *sys.argv[1:]], environment)

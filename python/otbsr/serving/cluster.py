"""`apply` on the workers of a dask cluster: one task per window, on this machine, under Slurm or PBS, over SSH, or where a scheduler runs already.

The client holds the folder of windows, its lock and its manifest, and alone gives windows their names; workers, which must see the same files
under the same paths, write files of their own and hand over their checksums. So a worker may die at any moment, and a window may be made twice.
Each window is a process of SuperResolution, which loads the model once for it and ends with the worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from otbsr import __version__
from otbsr.documents import read_document
from otbsr.errors import InputError, MissingToolError, OtbsrError, ProcessingError, UsageError
from otbsr.methods.model_folder import ModelFolder
from otbsr.progress import Report
from otbsr.serving.apply import STEP, Run, Work, make_elsewhere, window_name
from otbsr.serving.windows import Attempt, Made, WindowFolder

TRIES = 3
"""How often a window that fails is tried, each time on another worker where there is one."""
LOSSES = 20
"""How many workers may die under a window (or under the queue in which it waits) before it counts as failed once."""
FIRST_FAILURES = 3
"""A product is given up when this many windows have failed before any was made: the cause is then hardly in the windows."""
WAIT = 120.0
"""Seconds until the first worker must be there, where no queue comes before it."""
POLL = 0.05
KINDS = ("local", "slurm", "pbs", "ssh", "tcp://HOST:PORT")


@dataclass(frozen=True)
class ClusterSettings:
    """Which cluster, and what a worker is.

    kind: see `KINDS` (tls:// too). workers: least and most; equal for a fixed number; None: as the kind has it. threads: of each worker's
    window. gpus: 0 or 1 for each worker. hosts: for ssh, the first also runs the scheduler. memory: MiB for pixels of a window.
    options: further keywords of dask's or dask-jobqueue's cluster class.
    """

    kind: str
    workers: tuple[int, int] | None = None
    threads: int | None = None
    gpus: int = 0
    hosts: tuple[str, ...] = ()
    memory: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(
        cls, kind: str, workers: str = "", threads: int | None = None, gpus: int = 0, hosts: str = "", memory: int | None = None, options: Path | None = None
    ) -> ClusterSettings:
        """Settings from the command's words: workers "4" or "1-8", hosts with commas, options a YAML file. Raises `UsageError`, `InputError`."""
        scheduler = kind.startswith(("tcp://", "tls://"))
        if not scheduler and kind not in KINDS:
            raise UsageError(f"--cluster {kind}: expected {', '.join(KINDS)}")
        if scheduler and workers:
            raise UsageError(f"--workers {workers}: the cluster at {kind} has its own; leave --workers out")
        if (kind == "ssh") != bool(hosts):
            raise UsageError("--hosts names the machines of --cluster ssh, such as --hosts node1,node2; give both or neither")
        least, _, most = workers.partition("-")
        try:
            count = (int(least), int(most or least)) if workers else None
        except ValueError:
            count = (0, 0)
        if count and not 1 <= count[0] <= count[1]:
            raise UsageError(f"--workers {workers}: expected a number such as 4, or the least and most such as 1-8")
        words: Any = {}
        if options is not None:
            words = read_document(options, "options of a cluster, such as 'queue: short'")
            if not isinstance(words, dict):
                raise InputError(f"{options}: expected YAML with a name and a value a line, such as 'queue: short'")
        return cls(kind, count, threads, gpus, tuple(host.strip() for host in hosts.split(",") if host.strip()), memory, words)


@dataclass(frozen=True)
class Outcome:
    """What became of a task: files by name, or the error, and the worker."""

    worker: str
    host: str
    made: dict[str, Made] | None = None
    error: OtbsrError | None = None


def window_task(work: Work, number: int, done: dict[str, dict[str, Any]], version: str, gpus: int) -> Outcome:
    """Make one window on a worker; errors come back as values, so that the client knows the worker."""
    from distributed import get_worker

    worker, host = get_worker().address, socket.gethostname()
    try:
        if version != __version__:
            raise MissingToolError(f"the worker has otbsr {__version__}, the client {version}; install the same version on all machines")
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = claim_gpu()
        for model in work.models:
            require_same_model(model, work.options.trust_model)
        return Outcome(worker, host, make_elsewhere(Attempt(work.folder, done), work, number))
    except OtbsrError as error:
        return Outcome(worker, host, error=error)
    except Exception as error:
        return Outcome(worker, host, error=ProcessingError(f"{type(error).__name__}: {error}"))


def require_same_model(model: ModelFolder, trust: bool) -> None:
    """Raise `ModelError` unless the worker finds the client's model under its path; looked up once per worker process."""
    if open_model(str(model.path), trust).sidecar != model.sidecar:
        from otbsr.errors import ModelError

        raise ModelError(f"{model.path}: is another model here than where the command was started; all machines must see the same folder")


@lru_cache(8)
def open_model(path: str, trust: bool) -> ModelFolder:
    """A model folder with its hashes checked."""
    return ModelFolder.open(path, trust)


@lru_cache(1)
def claim_gpu() -> str:
    """A GPU of this machine for this process alone, to its end: an entry of CUDA_VISIBLE_DEVICES. Raises `MissingToolError`.

    TensorFlow takes all of a GPU's memory, so two workers must not share one. The lock is the kernel's and goes when the process dies.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = chosen.split(",") if chosen else [str(number) for number in range(len(glob.glob("/dev/nvidia[0-9]*")))]
    host = socket.gethostname()
    for gpu in (word.strip() for word in known):
        place = Path(tempfile.gettempdir()) / f"otbsr-gpu-{''.join(letter if letter.isalnum() else '-' for letter in gpu)}.lock"
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            handle = os.open(place, flags)
        except FileNotFoundError:
            handle = os.open(place, flags | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return gpu  # the handle stays open: it is the claim
        except OSError:
            os.close(handle)
    raise MissingToolError(f"{host} has {len(known)} GPUs, and other workers have all of them; start one worker for each GPU, or leave --gpus out")


@dataclass
class Farm:
    """A connected cluster. stop: ends waiting calls of `run`."""

    client: Any
    settings: ClusterSettings
    threads: int
    tell: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)

    def at_once(self, windows: int = 9) -> int:
        """How many products to work on at once: enough windows for all workers, and one product that is put together meanwhile."""
        most = self.settings.workers[1] if self.settings.workers else max(1, len(self.workers()))
        return min(32, 2 + 2 * most // windows)

    def workers(self) -> dict[str, Any]:
        """The workers by address, as the scheduler last said."""
        return dict(self.client.scheduler_info(n_workers=-1).get("workers", {}))

    def run_for(self, number: int) -> Run:
        """The `Run` for the product of a number: the first products' windows go first."""
        return lambda kept, work, report: self.run(kept, work, report, -number)

    def run(self, kept: WindowFolder, work: Work, report: Report, priority: int = 0) -> None:
        """Make the windows that `kept` lacks on the workers. Raises the error of a window that failed `TRIES` times, after all others have ended."""
        task, count = replace(work, options=replace(work.options, threads=self.threads)), len(work.places)
        waiting: dict[Any, int] = {}
        tries: dict[int, int] = {}
        failed: dict[int, tuple[str, OtbsrError]] = {}
        made = 0

        def submit(number: int, elsewhere: str = "") -> None:
            others = [address for address in self.workers() if address != elsewhere] if elsewhere else []
            done = {name: kept.done[name] for name in work.names(number).values() if name in kept.done}
            place = {"workers": others, "allow_other_workers": True} if others else {}
            future = self.client.submit(window_task, task, number, done, __version__, self.settings.gpus, pure=False, priority=priority, **place)
            waiting[future] = number

        for number in work.lacking(kept.done):
            submit(number)
        report(STEP, (count - len(waiting)) / count)
        try:
            while waiting:
                self.require_running(count - len(waiting) - len(failed), count)
                for future in [future for future in waiting if future.done()]:
                    outcome = self.outcome(future)
                    if outcome is None:
                        continue
                    number = waiting.pop(future)
                    name = window_name(work.places[number][1])
                    if outcome.made is not None:
                        kept.adopt(outcome.made)
                        made += 1
                        report(STEP, (count - len(waiting)) / count)
                        continue
                    error = outcome.error or ProcessingError("no result")
                    tries[number] = tries.get(number, 0) + 1
                    if tries[number] < TRIES:
                        self.tell(f"window {name} failed on {outcome.host or 'a worker'} and is tried again: {error}")
                        submit(number, outcome.worker)
                    else:
                        failed[number] = (outcome.host, error)
                        if made == 0 and len(failed) >= FIRST_FAILURES:
                            raise self.failure(failed, work, count - len(waiting) - len(failed))
                time.sleep(POLL)
        finally:
            if waiting:
                with contextlib.suppress(Exception):  # a lost scheduler has nothing to cancel
                    self.client.cancel(list(waiting), force=True)
        if failed:
            raise self.failure(failed, work, count - len(failed))

    def require_running(self, done: int, count: int) -> None:
        """Raise `ProcessingError` when the scheduler is gone, or `KeyboardInterrupt` when the run was stopped."""
        if self.stop.is_set():
            raise KeyboardInterrupt
        if self.client.status != "running":
            raise ProcessingError(
                f"the scheduler of --cluster {self.settings.kind} is lost; {done} of {count} windows are finished and kept: "
                "start a scheduler again, and the same command goes on"
            )

    def outcome(self, future: Any) -> Outcome | None:
        """What became of a task that is done; None when its result was lost with its worker and it runs again."""
        from distributed import KilledWorker

        if future.status == "cancelled":
            end = time.monotonic() + 5
            while self.client.status == "running" and time.monotonic() < end and not self.stop.is_set():
                time.sleep(POLL)  # a lost connection cancels all tasks before the client says so
            self.require_running(0, 1) if self.stop.is_set() else None
            return Outcome("", "", error=ProcessingError("the scheduler has given the task up"))
        try:
            result: Outcome = future.result(timeout=30)
            return result
        except KilledWorker as error:
            return Outcome("", "", error=ProcessingError(f"{error.allowed_failures + 1} workers died with it; see their machines' logs (memory?)"))
        except TimeoutError:
            return None
        except Exception as error:  # from the scheduler or unpickling: otbsr is missing there, or another version
            return Outcome("", "", error=ProcessingError(f"{type(error).__name__}: {error}; workers need the same Python packages as the client"))

    def failure(self, failed: Mapping[int, tuple[str, OtbsrError]], work: Work, done: int) -> OtbsrError:
        """The error for windows that failed to the last, of the class of the first."""
        number, (host, error) = next(iter(failed.items()))
        kind = type(error) if type(error).__init__ is Exception.__init__ else ProcessingError
        return kind(
            f"{len(failed)} of {len(work.places)} windows failed {TRIES} times, "
            f"{window_name(work.places[number][1])} at last on {host or 'a worker'}: {error}; "
            f"{done} are finished and kept, the same command goes on"
        )


def quiet_dask() -> None:
    """Settings for schedulers and workers that this process starts: lost workers are ordinary, and said by us where they matter."""
    import dask

    dask.config.set({"distributed.scheduler.allowed-failures": LOSSES, "logging.distributed": "critical", "logging.tornado": "critical"})
    dask.config.set({"distributed.worker.memory.terminate": False, "distributed.comm.timeouts.connect": "20s"})
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio", "bokeh"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def import_jobqueue() -> None:
    """Import dask-jobqueue without its handlers of signals: they would end an interrupted command with status 0. Raises `ImportError`."""
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        import dask_jobqueue  # noqa: F401
    finally:
        for name, handler in before.items():
            if signal.getsignal(name) is not handler:
                signal.signal(name, handler)


def start(settings: ClusterSettings, threads: int) -> Any:
    """Start the cluster of `settings` (not for a scheduler's address)."""
    if settings.kind == "local":
        from distributed import LocalCluster

        return LocalCluster(
            **{
                "n_workers": settings.workers[0] if settings.workers else max(1, cores() // threads),
                "threads_per_worker": 1,
                "processes": True,
                "memory_limit": 0,  # the pixels are in the application's process, not in the worker's
                "dashboard_address": "127.0.0.1:8787",
                "silence_logs": 50,
                **settings.options,
            }
        )
    if settings.kind == "ssh":
        from distributed import SSHCluster

        hosts = list(settings.hosts)
        each = -(-settings.workers[0] // len(hosts)) if settings.workers else 1
        words = {"worker_options": {"nthreads": 1, "n_workers": each, "memory_limit": 0}, "remote_python": sys.executable, **settings.options}
        return SSHCluster([hosts[0], *hosts], **words)
    from dask_jobqueue import PBSCluster, SLURMCluster  # type: ignore[attr-defined]

    memory = f"{(settings.memory or 1024) + 3072}MiB"  # beside the pixels: TensorFlow, its buffers, the worker
    words = {"cores": 1, "processes": 1, "memory": memory, "worker_extra_args": ["--memory-limit", "0"]}  # one slot: one window at a time
    if settings.kind == "slurm":
        words |= {"job_cpu": threads, "job_extra_directives": [f"--gres=gpu:{settings.gpus}"] if settings.gpus else []}
        return SLURMCluster(**{**words, **settings.options})
    gpus = f":ngpus={settings.gpus}" if settings.gpus else ""
    return PBSCluster(**{**words, "resource_spec": f"select=1:ncpus={threads}{gpus}:mem={memory.replace('MiB', 'mb')}", **settings.options})


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def open_cluster(settings: ClusterSettings, tell: Callable[[str], None] = lambda _line: None) -> Iterator[Farm]:
    """Start or reach the cluster of `settings`, tell its dashboard's address, wait for a worker, yield a `Farm`, and end what was started.

    Raises `MissingToolError` (dask, or the queue's programs, are not installed) and `ProcessingError` (no scheduler, no worker).
    """
    try:
        import_jobqueue()
        from distributed import Client
    except ImportError as error:
        raise MissingToolError(f"--cluster needs dask ({error}); install it: pip install 'otbsr[cluster]'") from error
    quiet_dask()
    address = settings.kind.startswith(("tcp://", "tls://"))
    workers = settings.workers or (1, 1)
    local = max(1, cores() // (settings.workers[1] if settings.workers else 1))
    threads = settings.threads or (local if settings.kind == "local" else 1 if address or settings.kind == "ssh" else 4)
    cluster, client = None, None
    try:
        try:
            cluster = None if address else start(settings, threads)
            client = Client(settings.kind if address else cluster, timeout=20, set_as_default=False)
        except (OSError, TimeoutError, RuntimeError, TypeError, ValueError, ImportError) as error:
            raise ProcessingError(
                f"--cluster {settings.kind}: cannot be started or reached ({' '.join(str(error).split()) or type(error).__name__})"
            ) from error
        tell(f"dashboard {client.dashboard_link}")
        if cluster is not None and settings.kind != "ssh" and (workers[0] < workers[1] or settings.kind in ("slurm", "pbs")):
            cluster.adapt(minimum=workers[0], maximum=workers[1])  # also with a fixed number: lost jobs are replaced
        wait_for_worker(client, settings)
        yield Farm(client, settings, threads, tell)
    finally:
        for one in (client, cluster):
            if one is not None:
                with contextlib.suppress(Exception):  # a scheduler that is gone cannot be told so
                    one.close(timeout=10)


def wait_for_worker(client: Any, settings: ClusterSettings) -> None:
    """Wait until a worker is there: in a queue for as long as it takes, else `WAIT` seconds. Raises `ProcessingError`."""
    end = None if settings.kind in ("slurm", "pbs") else time.monotonic() + WAIT
    while client.status == "running":
        if client.scheduler_info(n_workers=-1).get("workers"):
            return
        if end and time.monotonic() > end:
            raise ProcessingError(
                f"--cluster {settings.kind}: no worker came within {WAIT:.0f} s; start one (dask worker {client.scheduler.address}) and try again"
            )
        time.sleep(0.1)
    raise ProcessingError(f"the scheduler of --cluster {settings.kind} is lost before a worker came")

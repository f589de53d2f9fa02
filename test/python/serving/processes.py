"""Schedulers, workers and applications as processes of the tests."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


def until(true: Callable[[], object], seconds: float = 120.0, every: float = 0.02) -> object:
    """Wait for a condition and return what it gave."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "too slow"
        time.sleep(every)
    return found


def applications(folder: Path) -> list[psutil.Process]:
    """The SuperResolution processes that work for `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "SuperResolution" in words and any(str(folder) in word for word in words):
                found.append(process)
        except psutil.Error:
            pass
    return found


def kill_a_worker(folder: Path, which: int = 0, give_up: Callable[[], bool] = lambda: False) -> int:
    """Kill -9 a process that has an application at work for `folder`, while it works: its id; 0 when it was given up."""
    while True:
        busy = until(lambda: give_up() or applications(folder))
        if busy is True:
            return 0
        try:
            worker = busy[which % len(busy)].parent()
            if worker and any("dask" in word or "multiprocessing" in word for word in worker.cmdline()):  # not who adopts an orphan
                worker.kill()
                return worker.pid
        except (psutil.Error, ProcessLookupError):
            continue


@contextmanager
def dask_cluster(folder: Path, workers: int) -> Iterator[tuple[str, subprocess.Popen]]:
    """A scheduler and workers of one task each as processes of their own: the scheduler's address and process."""
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "10"}
    file, processes = folder / "scheduler.json", []

    def dask(*words: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", *map(str, words)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder))
        return processes[-1]

    try:
        scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file)
        until(file.exists)
        for _ in range(workers):
            dask("worker", "--scheduler-file", file, "--host", "127.0.0.1", "--nthreads", 1, "--memory-limit", 0, "--no-dashboard")
        import json

        yield json.loads(file.read_text())["address"], scheduler
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

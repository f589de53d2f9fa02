"""`otbsr apply` on clusters: whatever dies, the product is that of a run without a cluster, to the byte."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from otbsr import __version__
from otbsr.errors import GridError, InputError, MissingToolError, ModelError, ProcessingError, UsageError
from otbsr.methods.model_folder import ModelFolder
from otbsr.serving.apply import Applied, Work, apply
from otbsr.serving.options import ApplyOptions
from otbsr.serving.windows import Made, window_folder

pytest.importorskip("distributed")
pytest.importorskip("dask_jobqueue")
from processes import applications, dask_cluster, kill_a_worker, until
from test_windows import NEAREST, finished, image, without_hash

from otbsr.serving import cluster as module
from otbsr.serving.cluster import ClusterSettings, Farm, Outcome, claim_gpu, open_cluster

serves = pytest.mark.usefixtures("serving")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return image(tmp_path_factory.mktemp("scene") / "lr.tif")


@pytest.fixture(scope="module")
def expected(scene: Path, serving: None) -> bytes:
    """The product of a run without a cluster."""
    return apply(scene, NEAREST, scene.with_name("whole.tif"), window=512, threads=1).out.read_bytes()


def command(source: Path, out: Path, *words: object) -> list[str]:
    return list(map(str, [sys.executable, "-m", "otbsr", "apply", source, "--model", NEAREST, "-o", out, "--window", 512, "--threads", 1, *words]))


@serves
def test_a_worker_killed_in_a_window_and_then_the_scheduler(tmp_path: Path, scene: Path, expected: bytes) -> None:
    with dask_cluster(tmp_path, 2) as (address, scheduler):
        out = tmp_path / "sr.tif"
        process = subprocess.Popen(command(scene, out, "--cluster", address), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        kill_a_worker(tmp_path)
        text, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert out.read_bytes() == expected and "model: nearest-x4" in text
        assert "dashboard" in errors and "Traceback" not in errors
        assert not list(tmp_path.glob("*.windows"))

        out = tmp_path / "again.tif"
        process = subprocess.Popen(command(scene, out, "--cluster", address, "--quiet"), stderr=subprocess.PIPE, text=True)
        folder = tmp_path / "again.tif.windows"
        until(lambda: finished(folder) and applications(tmp_path))
        scheduler.send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == ProcessingError.exit_code and not out.exists()
        assert errors.count("\n") == 1 and f"scheduler of --cluster {address} is lost" in errors and "same command goes on" in errors
        kept = len(finished(folder))
        assert kept >= 1
    done = apply(scene, NEAREST, out, window=512, threads=1)
    assert done.reused >= kept and out.read_bytes() == expected and not folder.exists()


@serves
def test_many_products_on_local_workers(tmp_path: Path, scene: Path, expected: bytes) -> None:
    """Two products, one that cannot be read; the same command leaves the two as they are, and runs no window."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "lr.tif").symlink_to(scene)
    (tmp_path / "in" / "it's one; $(touch x).tif").symlink_to(scene)
    (tmp_path / "in" / "bad.tif").write_text("no image")
    words = ["--cluster", "local", "--workers", "2", "--json"]
    first = subprocess.run(command(tmp_path / "in" / "*.tif", tmp_path / "out", *words), capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert first.returncode == InputError.exit_code, first.stderr
    assert json.loads(first.stdout) == {"made": 2, "finished before": 0, "failed": 1, "out": str(tmp_path / "out")}
    told = [json.loads(line) for line in first.stderr.splitlines() if line.startswith("{")]
    assert any("dashboard http://127.0.0.1" in line.get("message", "") for line in told) and any("bad.tif" in line.get("message", "") for line in told)
    assert first.stderr.splitlines()[-1].startswith("otbsr: error: 1 of 3 products failed")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["it's one; $(touch x).tif", "lr.tif"] and not (tmp_path / "x").exists()
    made = tmp_path / "out" / "lr.tif"
    assert len(made.read_bytes()) == len(expected)
    changed = made.stat().st_mtime_ns
    (tmp_path / "in" / "bad.tif").unlink()
    again = subprocess.run(command(tmp_path / "in" / "*.tif", tmp_path / "out", "--json", "--quiet"), capture_output=True, text=True, timeout=300)
    assert json.loads(again.stdout)["finished before"] == 2 and again.returncode == 0 and made.stat().st_mtime_ns == changed


@serves
def test_an_interrupt_ends_the_workers_and_their_applications(tmp_path: Path, scene: Path, expected: bytes) -> None:
    out = tmp_path / "sr.tif"
    process = subprocess.Popen(command(scene, out, "--cluster", "local", "--workers", 2, "--quiet"), stderr=subprocess.PIPE, text=True)
    until(lambda: len(finished(tmp_path / "sr.tif.windows")) >= 1 and applications(tmp_path))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in errors and "Traceback" not in errors
    until(lambda: not applications(tmp_path), 10)
    process = subprocess.Popen(command(scene, out, "--cluster", "local", "--workers", 2, "--quiet"), stderr=subprocess.PIPE, text=True)
    until(lambda: applications(tmp_path))
    process.kill()  # the client: nobody is left to tell the workers
    process.communicate(timeout=60)
    until(lambda: not applications(tmp_path), 20)
    done = apply(scene, NEAREST, out, window=512, threads=1)
    assert done.reused >= 1 and out.read_bytes() == expected


class Future:
    """A finished task."""

    def __init__(self, result: object, status: str = "finished") -> None:
        self.value, self.status = result, status

    def done(self) -> bool:
        return True

    def result(self, timeout: float) -> object:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Client:
    """Workers a and b; `answer(number, worker)` is what a task gives on the first of the workers that it may run on."""

    status = "running"

    def __init__(self, answer) -> None:
        self.answer, self.asked = answer, []

    def scheduler_info(self, n_workers: int) -> dict:
        return {"workers": {"a": {}, "b": {}}}

    def submit(self, task, work, number, done, version, gpus, *, workers=("a", "b"), **_more) -> Future:
        self.asked.append((number, workers[0]))
        result = self.answer(number, workers[0])
        return Future(result, getattr(result, "status", "finished"))

    def cancel(self, _futures, force: bool) -> None:
        pass


def run_with(tmp_path: Path, answer, windows: int = 4) -> tuple[Client, list[str], set[str]]:
    """Run `windows` windows of a product with `answer`."""
    from rasterio.windows import Window

    client, told = Client(answer), []
    farm = Farm(client, ClusterSettings("tcp://x"), 1, told.append)
    places = tuple((Window(4 * n, 0, 4, 4), Window(n, 0, 1, 1)) for n in range(windows))
    with window_folder(tmp_path / "w", {"run": 1}) as kept:
        try:
            farm.run(kept, Work(kept.folder, (), (), None, {"out": None}, places, 0, ApplyOptions()), lambda *_: None)
        finally:
            names = set(kept.done)
    return client, told, names


def test_a_worker_runs_a_model_without_hashes_only_where_the_client_does(tmp_path: Path) -> None:
    folder = without_hash(tmp_path / "model")
    model = ModelFolder.open(folder, trust=True)
    module.require_same_model(model, trust=True)
    with pytest.raises(ModelError, match=r"no sha256 of saved_model\.pb"):
        module.require_same_model(model, trust=False)
    with pytest.raises(ModelError, match="another model here"):
        module.require_same_model(ModelFolder(folder, ModelFolder.open(NEAREST).sidecar), trust=True)


def empty(number: int, worker: str) -> Outcome:
    return Outcome(worker, worker.upper(), made={f"out_000000_{number:06d}": Made(None)})


def test_a_failed_window_is_tried_elsewhere_and_what_lasts_is_reported(tmp_path: Path) -> None:
    def sick(number: int, worker: str) -> Outcome:
        return Outcome(worker, "A", error=MissingToolError("no TensorFlow here")) if worker == "a" else empty(number, worker)

    client, told, names = run_with(tmp_path, sick)
    assert len(names) == 4 and sorted(client.asked) == sorted([(n, "a") for n in range(4)] + [(n, "b") for n in range(4)])
    assert len(told) == 4 and "failed on A and is tried again: no TensorFlow here" in told[0]

    def broken(number: int, worker: str) -> Outcome:
        return Outcome(worker, worker.upper(), error=GridError("wrong grid")) if number == 2 else empty(number, worker)

    with pytest.raises(GridError, match=r"1 of 4 windows failed 3 times, 000000_000002 at last on A: wrong grid; 3 are finished and kept"):
        run_with(tmp_path / "..", broken)
    tried = []

    def hopeless(number: int, worker: str) -> Outcome:
        tried.append(number)
        return Outcome(worker, worker.upper(), error=ModelError("no model"))

    with pytest.raises(ModelError, match="3 of 30 windows failed"):
        run_with(tmp_path, hopeless, 30)
    assert len(tried) == 30 + 2 * 3 or len(tried) < 3 * 30, "the product is given up before all windows were tried three times"


def test_lost_results_and_dead_workers_and_foreign_errors(tmp_path: Path) -> None:
    from distributed import KilledWorker

    seen: list[int] = []

    def flaky(number: int, worker: str) -> object:
        seen.append(number)
        if seen.count(number) > 1:
            return empty(number, worker)
        return [KilledWorker("t", None, 20), ModuleNotFoundError("No module named 'otbsr'"), RuntimeError("x"), empty(number, worker)][number]

    _, told, names = run_with(tmp_path, flaky)
    assert len(names) == 4 and len(told) == 3
    assert any("21 workers died with it" in line for line in told) and any("same Python packages" in line for line in told)
    assert window_of(tmp_path, "another", {"version": "0.0.0"}).error.exit_code == MissingToolError.exit_code


def window_of(tmp_path: Path, worker: str, changes: dict) -> Outcome:
    """What `window_task` gives for a client of another version."""
    import distributed

    class Worker:
        address = worker

    original, distributed.get_worker = distributed.get_worker, lambda: Worker
    try:
        return module.window_task(None, 0, {}, changes.get("version", __version__), 0)
    finally:
        distributed.get_worker = original


def test_a_stopped_or_lost_farm_says_so(tmp_path: Path) -> None:
    client = Client(empty)
    farm = Farm(client, ClusterSettings("tcp://x"), 1, print, threading.Event())
    client.status = "closed"
    with pytest.raises(ProcessingError, match=r"scheduler of --cluster tcp://x is lost; 3 of 9 windows are finished"):
        farm.require_running(3, 9)
    farm.stop.set()
    with pytest.raises(KeyboardInterrupt):
        farm.require_running(3, 9)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"kind": "cloud"}, "expected local, slurm, pbs, ssh"),
        ({"kind": "tcp://h:1", "workers": "4"}, "has its own"),
        ({"kind": "ssh"}, "--hosts names the machines"),
        ({"kind": "local", "hosts": "a"}, "--hosts names the machines"),
        ({"kind": "local", "workers": "4-2"}, "least and most"),
        ({"kind": "local", "workers": "many"}, "least and most"),
    ],
)
def test_settings_that_contradict_themselves(words: dict, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        ClusterSettings.read(**words)


def test_settings_and_their_yaml(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("queue: short\nwalltime: '01:00:00'\n")
    read = ClusterSettings.read("slurm", "1-8", 4, 1, options=file)
    assert (read.workers, read.threads, read.gpus, dict(read.options)) == ((1, 8), 4, 1, {"queue": "short", "walltime": "01:00:00"})
    for text in ("- a", "a: [", "!!python/object/apply:os.system [ls]"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"c\.yaml"):
            ClusterSettings.read("slurm", options=file)


def test_no_scheduler_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import distributed

    def refuse(*_words: object, **_more: object) -> None:
        raise OSError("Timed out trying to connect to tcp://127.0.0.1:1")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(ProcessingError, match="cannot be started or reached"), open_cluster(ClusterSettings("tcp://127.0.0.1:1")):
        pass
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(MissingToolError, match=r"otbsr\[cluster\]"), open_cluster(ClusterSettings("local")):
        pass


def test_each_worker_process_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7f/x")
    code = "from otbsr.serving.cluster import claim_gpu; print(claim_gpu(), claim_gpu(), flush=True); input()"
    others = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    claims = {other.stdout.readline().strip() for other in others}
    assert claims == {"3 3", "GPU-7f/x GPU-7f/x"}
    monkeypatch.setattr(module.tempfile, "tempdir", None)
    with pytest.raises(MissingToolError, match="has 2 GPUs, and other workers have all"):
        claim_gpu()
    others[0].kill()
    others[0].wait()
    assert claim_gpu() in ("3", "GPU-7f/x"), "a dead process holds nothing"
    claim_gpu.cache_clear()
    others[1].communicate("\n")


FAKE_SBATCH = """#!/bin/bash
# Runs what it is given at once, as Slurm would: one process for each element, with the array's variables.
echo "$@" >> {log}
elements=none
for word in "$@"; do
  case "$word" in
    --array=*) elements="${{word#--array=}}" ;;
    --export=ALL,*) export "${{word#--export=ALL,}}" ;;
  esac
done
script="${{@: -1}}"
cp "$script" {folder}/spooled
if [ $elements = none ]; then
  setsid bash {folder}/spooled > {folder}/job.log 2>&1 < /dev/null &
  echo "Submitted batch job $!"
  exit
fi
for ((i = ${{elements%-*}}; i <= ${{elements#*-}}; i++)); do
  SLURM_ARRAY_TASK_ID=$i bash {folder}/spooled >> {folder}/job.log 2>&1 &
  [ $((i % 2)) = 1 ] && wait
done
wait
echo 4711
"""


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """sbatch and scancel in PATH that run jobs on this machine; returns sbatch's log."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = folder / "log"
    (folder / "sbatch").write_text(FAKE_SBATCH.format(log=log, folder=folder))
    (folder / "scancel").write_text('#!/bin/bash\nfor job in "$@"; do kill -TERM -- "-$job"; done\n')
    for name in ("sbatch", "scancel"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return log


@serves
def test_a_slurm_array_script(tmp_path: Path, scene: Path, expected: bytes, fake_slurm: Path) -> None:
    odd = image(tmp_path / "it's $(touch x) `y`.tif", 60, 60)
    script, out = tmp_path / "job script.sh", tmp_path / "out"
    words = command(odd, out, "--slurm-script", script, "--max-memory", 512)
    words.insert(5, str(scene))
    written = subprocess.run([*words, "--json"], capture_output=True, text=True, timeout=120)
    assert written.returncode == 0, written.stderr
    assert json.loads(written.stdout)["windows"] == 7 and "#SBATCH --cpus-per-task=1\n" in script.read_text() and "#SBATCH --mem=3584M" in script.read_text()
    subprocess.run(["bash", str(script), "--account=me"], check=True, timeout=300, cwd=tmp_path)
    arrays, finishing = fake_slurm.read_text().splitlines()
    assert "--array=0-6 " in arrays and "--array=0-1 " in finishing and "--dependency=afterany:4711" in finishing and "--account=me" in finishing
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(made) == ["it's $(touch x) `y`.tif", "lr.tif"], (fake_slurm.parent / "job.log").read_text()
    assert made["lr.tif"] == expected and not (tmp_path / "x").exists()
    again = subprocess.run(["bash", str(script)], env={**os.environ, "SLURM_ARRAY_TASK_ID": "6"}, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and "finished: before" in again.stdout, "what is finished is not made again"


@pytest.mark.slow
@serves
def test_slurm_workers(tmp_path: Path, scene: Path, expected: bytes, fake_slurm: Path) -> None:
    options, out = tmp_path / "slurm.yaml", tmp_path / "sr.tif"
    options.write_text("queue: short\nwalltime: '01:00:00'\nlocal_directory: " + str(tmp_path) + "\ninterface: lo\nscheduler_options: {host: 127.0.0.1}\n")
    words = command(scene, out, "--cluster", "slurm", "--workers", 1, "--cluster-options", options, "--quiet")
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + (fake_slurm.parent / "job.log").read_text()
    assert out.read_bytes() == expected
    script = (fake_slurm.parent / "spooled").read_text()
    assert "#SBATCH -p short" in script and "#SBATCH --cpus-per-task=1" in script and "--nthreads 1" in script


def test_parts_of_a_product(tmp_path: Path, scene: Path) -> None:
    with pytest.raises(UsageError, match=r"window 6 of .*; expected 0 to 5"):
        apply(scene, NEAREST, tmp_path / "sr.tif", window=512, only=6)
    made = apply(scene, NEAREST, tmp_path / "sr.tif", window=512, only=1)  # it has no data: OTB is not needed
    assert isinstance(made, Applied) and made.reused == 0
    assert apply(scene, NEAREST, tmp_path / "sr.tif", window=512, only=1).reused == 1


@pytest.mark.slow
@serves
def test_ten_random_kills_of_four_workers(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, str(root / "benchmark" / "cluster.py"), "--kills", "10"], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kills"] >= 10 and result["wrong"] == 0

"""Training: it learns, it goes on where it stopped, and it says what is wrong."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from otbsr.cli import app
from otbsr.errors import InputError, OutputError, ProcessingError, UsageError
from otbsr.methods import run as run_module
from otbsr.methods.augmentation import Augmentation, augmented
from otbsr.methods.checkpoints import read_checkpoint, write_checkpoint
from otbsr.methods.model_folder import ModelFolder
from otbsr.methods.patches import Patches, batch_indices, read_pairs
from otbsr.methods.sensor import sensor_kernels
from otbsr.methods.settings import TrainingSettings, read_settings
from otbsr.methods.trainer import Trainer
from otbsr.methods.training import scores, train
from otbsr.world.sensors import degrade

BANDS = ("B4", "B3", "B2", "B8")
QUICK = {"network": {"channels": 8, "blocks": 2, "back_projection": 0}, "steps": 12, "validate_every": 6, "batch": 4, "border": 3, "warmup": 2, "rate": 3e-3}


def edges(seed: int, count: int = 8, size: int = 16) -> Patches:
    """Pairs of straight edges, degraded by the sensor."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: 4 * size, : 4 * size] - 2 * size
    targets = []
    for _ in range(count):
        angle, place = random.uniform(0, 2 * np.pi), random.uniform(-size, size)
        side = (x * np.cos(angle) + y * np.sin(angle) > place)[..., None]
        targets.append(np.where(side, random.uniform(300, 3500, 4), random.uniform(300, 3500, 4)))
    target = np.stack(targets).astype(np.float32)
    return Patches(np.stack([degrade(t, 4, BANDS) for t in target]), target)


@pytest.fixture(scope="module")
def pairs() -> tuple[Patches, Patches]:
    return edges(1, 24), edges(2, 6)


def run(tmp_path, pairs, name="model", **changes) -> ModelFolder:
    return train(*pairs, TrainingSettings.model_validate(QUICK | changes), tmp_path / name, data="edges", seeds=[101])


def test_training_beats_bicubic_on_edges_and_writes_a_whole_folder(tmp_path, pairs):
    calm = {"gain": 0, "band_gain": 0, "offset": 0, "noise": 0, "anew": 0}
    larger = {"channels": 12, "blocks": 2, "back_projection": 0}
    model = run(tmp_path, pairs, steps=150, validate_every=75, average=0.9, batch=8, augmentation=calm, network=larger)
    side = model.sidecar
    assert side.metrics["gain_over_bicubic_db"] > 0.2
    assert side.training["curve"][-1]["loss"] < side.training["curve"][0]["loss"]
    assert side.training["steps"] == 150
    assert [point["step"] for point in json.loads((model.path / "model.json").read_text())["training"]["curve"]] == [75, 150]
    assert side.training["training_hash"] == pairs[0].hash() != pairs[1].hash()
    assert side.margin == 9
    card = (model.path / "README.md").read_text()
    assert f"| mean | {side.metrics['psnr_bicubic']:.2f} | {side.metrics['psnr']:.2f} |" in card
    # What is scored is what is served.
    assert scores(lambda lr: model.signature(lr=lr)["sr"].numpy(), pairs[1], 3)["psnr"] == pytest.approx(side.metrics["psnr"], abs=0.01)


@pytest.mark.parametrize("seconds", [300.0, 0.0])
def test_resumed_equals_uninterrupted(tmp_path, pairs, monkeypatch, seconds):
    """From the checkpoint of the last validation, or where that is long ago from one of its own."""
    monkeypatch.setattr(run_module, "CHECKPOINT_SECONDS", seconds)

    class Killed(Exception):
        pass

    def kill_after(step: int):
        count = 0

        def report(name: str, share: float) -> None:
            nonlocal count
            count += name == "training"
            if count > step:
                raise Killed

        return report

    settings = TrainingSettings.model_validate(QUICK)
    whole = train(*pairs, settings, tmp_path / "whole")
    with pytest.raises(Killed):
        train(*pairs, settings, tmp_path / "cut", report=kill_after(9))
    assert not (tmp_path / "cut").exists()
    assert read_checkpoint(tmp_path / "cut.checkpoint.npz")[1]["state"]["step"] == (6 if seconds else 9)
    resumed = train(*pairs, settings, tmp_path / "cut")
    assert resumed.sidecar.training["steps"] == 12
    a, b = (read_checkpoint(tmp_path / f"{name}.checkpoint.npz")[0] for name in ("whole", "cut"))
    for name in a:
        for x, y in zip(a[name], b[name], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)  # sums over threads differ in their last bits
    assert resumed.sidecar.metrics["psnr"] == pytest.approx(whole.sidecar.metrics["psnr"], abs=0.01)


def test_a_checkpoint_of_another_run_is_refused_but_can_be_a_start(tmp_path, pairs):
    run(tmp_path, pairs, steps=2, validate_every=2)
    with pytest.raises(UsageError, match="belongs to a run with other settings or patches; remove it or give another --checkpoint"):
        train(*pairs, TrainingSettings.model_validate(QUICK | {"seed": 5}), tmp_path / "model", overwrite=True)
    start = tmp_path / "model.checkpoint.npz"
    second = train(*pairs, TrainingSettings.model_validate(QUICK | {"steps": 1, "rate": 1e-12, "average": 0.0}), tmp_path / "second", start_from=start)
    first = read_checkpoint(start)[0]["average"]
    for x, y in zip(first, read_checkpoint(tmp_path / "second.checkpoint.npz")[0]["weight"], strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)
    assert second.sidecar.training["history"] == [{"data": "edges", "pairs": 24, "seeds": [101], "footprints": [], "areas_complete": False, "steps": 2}]
    assert second.sidecar.training["seeds"] == [101], "what it learned before counts as seen"
    assert "It started from weights trained for 2 steps on edges." in (second.path / "README.md").read_text()


def test_time_budget_ends_the_run(tmp_path, pairs):
    model = run(tmp_path, pairs, steps=10**6, minutes=0.02, validate_every=10**6)
    assert 1 <= model.sidecar.training["steps"] < 10**5


def test_nan_stops_with_advice(tmp_path, pairs):
    with pytest.raises(ProcessingError, match=r"step 0: the loss is (nan|inf); lower the learning rate \(now 0.003\)"):
        run(tmp_path, pairs, loss={"pixel": 1e39})  # overflows 32 bits


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_patches_with_nan_are_named(tmp_path, pairs):
    """By their number in memory, by file and rows on disk; at once, instead of at half the rate."""
    spoilt = [[np.array(patches.lr), np.array(patches.target)] for patches in pairs]
    spoilt[0][0][17, 3, 3, 1], spoilt[1][1][2, 30, 30, 0] = np.nan, np.inf
    remedy = "leave it out: run `otbsr pairs` again on images that declare their no-data value"
    with pytest.raises(InputError, match=f"pair 17: the input patch holds values that are no numbers; {remedy}"):
        run(tmp_path, (Patches(*spoilt[0]), pairs[1]), augmentation={"anew": 0}, steps=50)
    folder = write_pairs(tmp_path / "pairs", pairs[0], Patches(*spoilt[1]))
    training, validation, _ = read_pairs([folder])
    with pytest.raises(InputError, match=r"valid_target.tif: patch 2, rows 128 to 191: the target patch holds values that are no numbers"):
        run(tmp_path, (training, validation))


def test_nan_goes_back_and_on_at_half_the_rate(tmp_path, pairs, monkeypatch):
    """The loss is NaN at step 8, twice; the checkpoint of step 6 is taken up again, with half and a quarter of the rate."""
    seen, plain = [], Trainer.step

    def step(self, lr, target, number, share):
        loss = plain(self, lr, target, number, share)
        seen.append((number, self.rate))
        if number == 8 and sum(n == 8 for n, _ in seen) <= failures:
            for variable in self.model.net.trainable_variables:
                variable.assign(np.full(variable.shape, np.nan))
            return np.nan
        return loss

    monkeypatch.setattr(Trainer, "step", step)
    failures = 2
    side = run(tmp_path, pairs, "twice").sidecar
    assert side.training["halvings"] == [8, 8]
    assert [number for number, _ in seen] == [*range(9), 6, 7, 8, *range(6, 12)]
    rates = [rate for number, rate in seen if number == 7]
    assert rates == pytest.approx([rates[0], rates[0] / 2, rates[0] / 4])
    assert np.isfinite(side.metrics["psnr"])
    failures, seen[:] = 3, []
    with pytest.raises(ProcessingError, match=r"step 8: the loss is nan although the rate was halved twice; lower the learning rate \(now 0.00075\)"):
        run(tmp_path, pairs, "thrice")
    assert read_checkpoint(tmp_path / "thrice.checkpoint.npz")[1]["state"]["step"] == 6


@pytest.mark.parametrize("kind", [MemoryError, "ResourceExhaustedError", "InternalError"])
def test_out_of_memory_says_what_to_lower(tmp_path, pairs, monkeypatch, kind):
    import tensorflow as tf

    error = kind() if kind is MemoryError else getattr(tf.errors, kind)(None, None, "failed to allocate: CUDA out of memory")
    plain = Trainer.step

    def step(self, lr, target, number, share):
        if number == 7:
            raise error
        return plain(self, lr, target, number, share)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(ProcessingError) as raised:
        run(tmp_path, pairs)
    text, checkpoint = str(raised.value), tmp_path / "model.checkpoint.npz"
    assert "memory ran out with --batch 4, patches of 16 input pixels (x4) and a network of 8 channels and 2 blocks; lower --batch" in text
    assert f"the checkpoint {checkpoint} is kept: --start-from {checkpoint} --checkpoint NEW.npz goes on" in text
    monkeypatch.undo()
    half = TrainingSettings.model_validate(QUICK | {"batch": 2, "steps": 1})
    train(*pairs, half, tmp_path / "model", start_from=checkpoint, checkpoint=tmp_path / "new.npz")  # the advice works


def test_curves_for_tensorboard(tmp_path, pairs, monkeypatch):
    import tensorflow as tf
    from tensorflow.compat.v1.train import summary_iterator

    settings = TrainingSettings.model_validate(PERCEPTUAL | {"steps": 4, "validate_every": 2})
    model = train(*pairs, settings, tmp_path / "model", tensorboard=tmp_path / "logs" / "p")
    found: dict[str, list[tuple[int, float]]] = {}
    (path,) = (tmp_path / "logs" / "p").iterdir()
    for event in summary_iterator(str(path)):
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name in ("scalars", "")
            found.setdefault(value.tag, []).append((event.step, float(np.frombuffer(value.tensor.tensor_content, np.float32)[0])))
    assert set(found) == {"loss", "rate", "critic_loss", "validation_psnr", "gain_over_bicubic"}
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4]
    curve = model.sidecar.training["curve"]
    assert np.array(found["validation_psnr"]) == pytest.approx(np.array([(point["step"], point["psnr"]) for point in curve]), abs=1e-3)
    assert np.mean([loss for _, loss in found["loss"][:2]]) == pytest.approx(curve[0]["loss"], abs=1e-5)
    assert found["rate"][1][1] == pytest.approx(settings.final_rate + (settings.rate - settings.final_rate) * 0.5 * (1 + np.cos(np.pi / 4)))
    assert found["gain_over_bicubic"][1][1] == pytest.approx(model.sidecar.metrics["gain_over_bicubic_db"], abs=1e-3)
    full = tf.errors.ResourceExhaustedError(None, None, "{{function_node __wrapped__FlushSummaryWriter}} events.out; No space left on device\nFailed to flush")
    monkeypatch.setattr(tf.summary, "write", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(OutputError, match=r"q: curves cannot be written \(No space left on device\); check the free space: the same command goes on"):
        train(*pairs, settings, tmp_path / "other", tensorboard=tmp_path / "logs" / "q")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="curves cannot be written"):
        train(*pairs, settings, tmp_path / "other", tensorboard=tmp_path / "file")


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_killed_stopped_and_resumed_commands_end_where_an_undisturbed_one_does(tmp_path):
    """`otbsr train` ended by SIGKILL, then by SIGTERM, then run to its end: the same weights to the bit as in one go."""
    pairs = write_pairs(tmp_path / "pairs", edges(3, 12), edges(4, 4))
    (tmp_path / "settings.yaml").write_text(json.dumps(QUICK | {"steps": 60, "validate_every": 5}))

    def start(name: str) -> subprocess.Popen[str]:
        # the signals are ignored where tests run as a shell's background job: an interpreter that sets them right
        code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from otbsr.cli import main; main()"
        words = ["train", pairs, "-o", tmp_path / name, "--settings", tmp_path / "settings.yaml", "--threads", "1", "--quiet"]
        return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def ended(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
        """Send the signal as soon as a (new) checkpoint is there."""
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.005)
        process.send_signal(number)
        return process.wait(), process.communicate()[1]

    checkpoint, whole = tmp_path / "cut.checkpoint.npz", start("whole")
    assert ended(start("cut"), signal.SIGKILL)[0] == -signal.SIGKILL
    first = read_checkpoint(checkpoint)[1]["state"]["step"]
    status, message = ended(start("cut"), signal.SIGTERM)
    step = read_checkpoint(checkpoint)[1]["state"]["step"]
    assert 0 < first < step < 60
    assert (status, message.splitlines()[-1]) == (143, f"otbsr: error: SIGTERM after step {step} of 60; the same command goes on from {checkpoint}")
    assert "Traceback" not in message
    last = start("cut")
    assert (last.wait(), whole.wait()) == (0, 0), last.communicate()[1] + whole.communicate()[1]
    (a, one), (b, two) = (read_checkpoint(tmp_path / f"{name}.checkpoint.npz") for name in ("whole", "cut"))
    assert sorted(a) == sorted(b)
    for name in a:
        for x, y in zip(a[name], b[name], strict=True):
            np.testing.assert_array_equal(x, y)
    assert one["state"]["curve"] == two["state"]["curve"]
    assert ModelFolder.open(tmp_path / "whole").sidecar.metrics == ModelFolder.open(tmp_path / "cut").sidecar.metrics


TWO_DEVICES = """
import sys, tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import json, numpy as np
from otbsr.errors import UsageError
from otbsr.methods.devices import open_strategy
from otbsr.methods.patches import Patches
from otbsr.methods.settings import TrainingSettings
from otbsr.methods.training import train
data = np.load(sys.argv[1] + "/pairs.npz")
pairs = Patches(data["a"], data["b"]), Patches(data["c"], data["d"])
strategy = open_strategy("CPU:0,CPU:1")
assert strategy.num_replicas_in_sync == 2 and open_strategy("CPU:0") is None and open_strategy("all").num_replicas_in_sync == 2
for wrong in ("CPU:7", "GPU:0,GPU:0"):
    try:
        open_strategy(wrong)
        raise SystemExit("not refused")
    except UsageError as error:
        assert f"--devices {wrong}: expected all, or some of CPU:0, CPU:1" == str(error), error
for name, values in json.loads(sys.argv[2]).items():
    for devices, how in (("one", None), ("two", strategy)):
        settings = TrainingSettings.model_validate(values)
        side = train(*pairs, settings, f"{sys.argv[1]}/{name}-{devices}", strategy=how).sidecar
        print(json.dumps([point["loss"] for point in side.training["curve"]]))
try:
    train(*pairs, settings.model_copy(update={"batch": 5}), sys.argv[1] + "/odd", strategy=strategy)
except UsageError as error:
    print(error)
"""


def test_two_devices_do_what_one_does(tmp_path, pairs):
    """The same losses for F, clipped gradients included; for P those of a discriminator that compares within each device's part."""
    np.savez(tmp_path / "pairs.npz", a=pairs[0].lr, b=pairs[0].target, c=pairs[1].lr, d=pairs[1].target)
    kinds = {"f": QUICK | {"steps": 6, "validate_every": 2, "clip": 0.01}, "p": PERCEPTUAL | {"steps": 4, "validate_every": 4}}
    kinds["p"] = kinds["p"] | {"adversarial": kinds["p"]["adversarial"] | {"relativistic": False, "features": 0}}
    done = subprocess.run([sys.executable, "-c", TWO_DEVICES, str(tmp_path), json.dumps(kinds)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    one, two, p_one, p_two = map(json.loads, lines[:4])
    assert (len(one), len(p_one)) == (3, 1)
    assert two == pytest.approx(one, abs=1e-4)
    assert p_two == pytest.approx(p_one, abs=1e-4)
    assert np.ptp(one) > 1e-3
    assert lines[4] == "a batch of 5 pairs cannot be divided among 2 devices; give a --batch that is a multiple of 2"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_two_hosts_do_what_one_does(tmp_path):
    """Two processes with TF_CONFIG, one model folder: losses as of one process."""
    pairs = write_pairs(tmp_path / "pairs", edges(3, 12), edges(4, 4))
    (tmp_path / "settings.yaml").write_text(json.dumps(QUICK | {"steps": 4, "validate_every": 2}))
    ports = []
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))
            ports.append(f"127.0.0.1:{one.getsockname()[1]}")

    def start(name: str, **environment: str) -> subprocess.Popen[str]:
        words = ["train", pairs, "-o", tmp_path / name, "--settings", tmp_path / "settings.yaml", "--quiet"]
        command = [sys.executable, "-m", "otbsr", *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})

    hosts = [start("two", TF_CONFIG=json.dumps({"cluster": {"worker": ports}, "task": {"type": "worker", "index": k}})) for k in (0, 1)]
    try:
        for host in hosts:
            _, errors = host.communicate(timeout=240)
            assert host.returncode == 0, errors[-3000:]
    finally:
        for host in hosts:
            host.kill()
    alone = start("one")
    assert alone.wait() == 0, alone.communicate()[1]
    one, two = (ModelFolder.open(tmp_path / name).sidecar.training["curve"] for name in ("one", "two"))
    assert [point["loss"] for point in two] == pytest.approx([point["loss"] for point in one], abs=1e-4)
    assert sorted(path.name for path in tmp_path.glob("two*")) == ["two", "two.checkpoint.npz"]


def test_patches_that_do_not_fit_the_network(tmp_path, pairs):
    half = Patches(pairs[0].lr, pairs[0].target[:, ::2, ::2])
    with pytest.raises(UsageError, match="the pairs are x2, the network is x4; leave the factor out"):
        run(tmp_path, (half, half), network=QUICK["network"] | {"factor": 4})
    with pytest.raises(UsageError, match="the pairs have the bands B4 B3 B2 B8, the network takes B4 B5; name bands that they have"):
        run(tmp_path, pairs, network=QUICK["network"] | {"bands": ("B4", "B5")})
    with pytest.raises(UsageError, match="no validation pair; expected at least one"):
        run(tmp_path, (pairs[0], Patches(pairs[1].lr[:0], pairs[1].target[:0])))
    with pytest.raises(UsageError, match="leave nothing within a border of 6"):
        run(tmp_path, pairs, border=6)
    (tmp_path / "model").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        run(tmp_path, pairs)


def test_every_pair_once_per_epoch():
    drawn = np.concatenate([batch_indices(12, 4, 7, step) for step in range(3)])
    assert sorted(drawn) == list(range(12))
    assert list(batch_indices(12, 4, 7, 3)) != list(drawn[:4])
    assert sorted(batch_indices(3, 16, 0, 5)) == [0, 1, 2]


def test_augmentation_keeps_the_pair_a_pair(pairs):
    """Flips, gain and offset change input and target alike: the degraded target still is the input."""
    how = Augmentation(noise=0.0, anew=0.0)
    kernels = sensor_kernels(BANDS, 4)
    radius = (kernels.shape[0] // 4 - 1) // 2
    for seed in range(6):
        lr, target = augmented(pairs[0].lr, pairs[0].target, how, np.random.default_rng(seed))
        assert lr.dtype == target.dtype == np.float32
        again = np.stack([degrade(t, 4, BANDS) for t in target])
        np.testing.assert_allclose(again[:, radius:-radius, radius:-radius], lr[:, radius:-radius, radius:-radius], rtol=1e-3, atol=1.5)


def test_augmentation_noise_is_on_the_input_only(pairs):
    still = Augmentation(flips=False, gain=0, band_gain=0, offset=0, noise=30.0)
    lr, target = augmented(pairs[0].lr, pairs[0].target, still, np.random.default_rng(0))
    np.testing.assert_array_equal(target, pairs[0].target)
    sigmas = (lr - pairs[0].lr).std((1, 2, 3))
    assert np.all(sigmas < 33)
    assert sigmas.std() > 3


def test_scores_by_hand():
    patches = Patches(np.zeros((2, 4, 4, 2), np.float32), np.zeros((2, 8, 8, 2), np.float32))
    wrong = np.zeros((2, 8, 8, 2), np.float32)
    wrong[..., 0], wrong[..., 1] = 100, 1000  # 0.01 and 0.1 reflectance: 40 and 20 dB
    wrong[:, 0] = wrong[:, :, -1] = 1e6  # in the border: not scored
    assert scores(lambda lr: wrong[: len(lr)], patches, 1) == {"psnr": 30.0, "psnr_bands": [40.0, 20.0]}


def test_settings_from_yaml_and_options(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("steps: 7\nnetwork: {channels: 12}\n")
    settings = read_settings(path, steps=None, minutes=3.0)
    assert (settings.steps, settings.network.channels, settings.minutes) == (7, 12, 3.0)
    path.write_text("network: {chanels: 12}\n")
    with pytest.raises(UsageError, match=r"network.chanels: no such setting \(did you mean 'channels'\?\); expected one of size, bands,"):
        read_settings(path)
    with pytest.raises(InputError, match="cannot be read as YAML or JSON"):
        read_settings(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("netwrok: {channels: 8}", "netwrok: no such setting (did you mean 'network'?); expected one of network, loss, "),
        ("loss: {pixels: 1}", "loss.pixels: no such setting (did you mean 'pixel'?); expected one of pixel, gradient, "),
        ("adversarial: {wait: 1}", "adversarial.wait: no such setting; expected one of weight, features, "),
        ("network:", "network: is None, expected keys and values (size, bands, "),
        ("adversarial: true", "adversarial: is True, expected keys and values (weight, "),
        ("network: {size: {a: 1}}", "network: size is {'a': 1}, expected one of tiny, light, base; correct the setting"),
        ("augmentation: {anew_noise: [20, 5]}", "augmentation.anew_noise: [20, 5]: expected the least and the greatest, neither negative; correct the setting"),
        ("rate: .inf", "rate: inf: input should be a finite number; correct the setting"),
        ("seed: -1", "seed: -1: input should be greater than or equal to 0; correct the setting"),
        ("steps: 3\nsteps: 4", "cannot be read as YAML or JSON like the settings in any model.json (the key steps is there twice: delete one); correct it"),
    ],
)
def test_wrong_files_of_settings_are_told_in_one_line(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises((UsageError, InputError)) as error:
        read_settings(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("batch: 5\nnetwork: {channels: 12, blocks: 3, factor: 2}\nadversarial: {weight: 0.5}\n")
    settings = read_settings(path, method="fidelity", size="tiny", factor=3, batch=7, rate=None)
    assert (settings.adversarial, settings.batch, settings.rate) == (None, 7, 1e-3)
    assert (settings.network.channels, settings.network.blocks, settings.network.factor) == (20, 4, 3)
    settings = read_settings(path, method="perceptual")
    assert settings.adversarial.weight == 0.5, "the file says more than the flag"
    assert (settings.network.body, settings.network.channels) == ("residual", 12)
    path.write_text("network: {body: attention}")
    assert read_settings(path, method="perceptual").network.body == "attention"
    plain = read_settings(method="perceptual", pairs={"factor": 2, "bands": ["B2", "B5"]}, outputs=["B5"])
    assert (plain.network.factor, plain.network.bands, plain.network.bands_out) == (2, ("B2", "B5"), ("B5",))
    assert (plain.network.body, plain.adversarial.relativistic) == ("residual", True)
    some = {"factor": 2, "bands": ["B2", "B5", "B8"], "outputs": ["B8", "B2"]}
    assert read_settings(pairs=some).network.bands_out == ("B8", "B2")
    assert read_settings(pairs=some, bands=["B2", "B5"]).network.bands_out == ("B2",)
    assert read_settings(pairs=some | {"outputs": some["bands"]}, bands=["B2", "B5"]).network.bands_out == ("B2", "B5")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"method": "sharp"}, "--method sharp: expected fidelity or perceptual"),
        ({"size": "huge"}, "--size huge: expected one of tiny, light, base"),
        ({"factor": 9}, "--factor 9: input should be less than or equal to 8"),
        ({"batch": 0}, "--batch 0: input should be greater than or equal to 1"),
        ({"rate": -1.0}, "--rate -1.0: input should be greater than 0"),
        ({"outputs": ["B5"]}, "--outputs B5 are not among the bands B4 B3 B2 B8"),
        ({"method": "perceptual", "patience": 3}, "--patience 3: stops a run whose score no longer grows, but a perceptual method's score falls; leave it out"),
    ],
)
def test_wrong_flags_are_told_in_one_line(flags, message):
    with pytest.raises(UsageError) as error:
        read_settings(**flags)
    assert str(error.value) == message


def test_bands_are_taken_from_the_pairs(tmp_path, pairs):
    """A network of B8 and B4 that gives B4: its patches are those two bands of the pairs, its bicubic score is that of B4 alone."""
    model = run(tmp_path, pairs, network=QUICK["network"] | {"bands": ("B8", "B4"), "outputs": ("B4",)}, steps=1)
    whole = run(tmp_path, pairs, "whole", steps=1)
    assert (model.sidecar.input.bands, model.sidecar.output.bands) == (("B8", "B4"), ("B4",))
    assert model.sidecar.metrics["psnr_bands_bicubic"] == whole.sidecar.metrics["psnr_bands_bicubic"][:1]
    assert model.sidecar.training["training_hash"] == pairs[0].select([3, 0], [0]).hash()


def test_targets_of_some_of_the_bands(tmp_path, pairs):
    """Pairs whose targets have two of the input's bands, in another order: the network gives these, compared each with its own."""
    fewer = [Patches(patches.lr, patches.target[..., [3, 0]]) for patches in pairs]
    settings = TrainingSettings.model_validate(QUICK | {"steps": 1})
    model = train(*fewer, settings, tmp_path / "two", targets=("B8", "B4"))
    whole = train(*pairs, settings, tmp_path / "four")
    assert (model.sidecar.input.bands, model.sidecar.output.bands) == (BANDS, ("B8", "B4"))
    alone = whole.sidecar.metrics["psnr_bands_bicubic"]
    assert model.sidecar.metrics["psnr_bands_bicubic"] == [alone[3], alone[0]]
    with pytest.raises(UsageError, match=r"the pairs' targets have 2 bands \(B8 B4\), the network gives B3; name outputs that they have"):
        train(*fewer, TrainingSettings.model_validate(QUICK | {"network": {"outputs": ["B3"]}}), tmp_path / "x", targets=("B8", "B4"))


def test_mixed_precision_trains_and_serves_32_bits(tmp_path, pairs):
    """16 bits within the steps only: scores nearly those of 32 bits (DN of 5000 in 16 bits would be off by up to 2), and it resumes."""
    mixed = run(tmp_path, pairs, "mixed", mixed_precision=True)
    plain = run(tmp_path, pairs, "plain")
    assert mixed.sidecar.metrics["psnr"] == pytest.approx(plain.sidecar.metrics["psnr"], abs=0.05)
    assert mixed.sidecar.metrics["psnr_bicubic"] == plain.sidecar.metrics["psnr_bicubic"]
    kinds = {tensor.dtype for operation in mixed.signature.graph.get_operations() for tensor in operation.outputs}
    assert not [kind for kind in kinds if kind.name == "float16"]
    settings = TrainingSettings.model_validate(PERCEPTUAL | {"mixed_precision": True, "steps": 4, "validate_every": 2})
    trainer = Trainer(settings)
    losses = [trainer.step(pairs[0].lr[:4], pairs[0].target[:4], step, 0.9) for step in range(3)]
    assert np.isfinite(losses).all()
    other = Trainer(settings)
    other.restore(trainer.arrays())
    again = [t.step(pairs[0].lr[:4], pairs[0].target[:4], 3, 0.9) for t in (trainer, other)]
    assert again[0] == pytest.approx(again[1], rel=1e-3)
    assert {layer.compute_dtype for layer in trainer.model.net.layers} == {"float16", "float32"}


def test_gain_of_a_target_band_is_its_inputs():
    """Targets hold the input's last band: what is brightened is the same there."""
    how = Augmentation(flips=False, offset=0, noise=0, anew=0)
    lr = np.ones((3, 8, 8, 4), np.float32)
    changed, target = augmented(lr, np.ones((3, 16, 16, 1), np.float32), how, np.random.default_rng(0), outputs=[3])
    np.testing.assert_array_equal(target[:, :8, :8, 0], changed[..., 3])
    assert np.abs(changed[..., 0] - changed[..., 3]).min() > 1e-4


def write_pairs(folder: Path, training: Patches, validation: Patches, **also) -> Path:
    """A folder as `otbsr pairs` writes it, with more in its manifest."""
    folder.mkdir(parents=True)
    splits = {}
    for split, patches in (("train", training), ("valid", validation)):
        for key, images in (("lr", patches.lr), ("target", patches.target)):
            pixels = images.reshape(-1, *images.shape[2:]).transpose(2, 0, 1)
            with rasterio.open(
                folder / f"{split}_{key}.tif", "w", driver="GTiff", width=pixels.shape[2], height=pixels.shape[1], count=pixels.shape[0], dtype="float32"
            ) as dataset:
                dataset.write(pixels)
        splits[split] = {"lr": f"{split}_lr.tif", "target": f"{split}_target.tif", "accepted": len(patches)}
    manifest = {"bands": BANDS, "spacing": 10.0, "factor": 4, "patch": patches.lr.shape[1], "data": "edges", "seed": 1, "splits": splits, **also}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_the_examples_of_the_help_run(tmp_path, monkeypatch):
    for name in "ab":
        write_pairs(tmp_path / "pairs" / name, edges(3, 4, 20), edges(4, 2, 20))
    monkeypatch.chdir(tmp_path)
    text = CliRunner().invoke(app, ["train", "--help"]).output
    examples = re.findall(r": otbsr (train .*?-o (\S+).*?)(?= Another|$)", " ".join(text.split("Options:")[1].split()))
    assert len(examples) == 2
    for line, out in examples:
        done = CliRunner().invoke(app, [*shlex.split(line), "--steps", "1", "--batch", "2", "--quiet"], catch_exceptions=False)
        assert done.exit_code == 0
        side = ModelFolder.open(out).sidecar
        assert side.method == ("perceptual" if "perceptual" in line else "fidelity")
        assert side.training["settings"]["network"]["channels"] == 32


def test_damaged_checkpoints_are_one_line(tmp_path, pairs):
    """Cut off, changed in the middle, empty, something else: never TensorFlow's or zip's own error, and no advice to unpickle."""
    path = tmp_path / "c.npz"
    write_checkpoint(path, {"weight": [np.arange(5000.0)]}, {"step": 3})
    whole = path.read_bytes()
    assert read_checkpoint(path)[1] == {"step": 3}
    for content in (b"", b"PK", whole[: len(whole) // 2], whole[:9000] + bytes(500) + whole[9500:], b"steps: 3\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"c.npz: not a checkpoint \(.*\); remove it to train from the beginning$") as error:
            read_checkpoint(path)
        assert "pickle" not in str(error.value)
    settings = TrainingSettings.model_validate(QUICK | {"steps": 1})
    with pytest.raises(InputError, match=r"c.npz: not a checkpoint \(.*\); give --start-from a checkpoint or a model folder of `otbsr train`"):
        train(*pairs, settings, tmp_path / "m", start_from=path)
    with pytest.raises(InputError, match=r"none: no such checkpoint or model folder to start from; check --start-from"):
        train(*pairs, settings, tmp_path / "m", start_from=tmp_path / "none")


PERCEPTUAL = QUICK | {"adversarial": {"start": 0.0, "ramp": 0.5, "channels": 4}}


def test_perceptual_training_resumes_exactly_and_says_what_it_is(tmp_path, pairs):
    settings = TrainingSettings.model_validate(PERCEPTUAL | {"network": {"body": "residual", "channels": 8, "blocks": 2}, "border": 3})
    first = train(*pairs, settings, tmp_path / "p")
    assert first.sidecar.method == "perceptual"
    assert "Perceptual method" in (first.path / "README.md").read_text()
    arrays, _ = read_checkpoint(tmp_path / "p.checkpoint.npz")
    one, two = Trainer(settings), Trainer(settings)
    one.restore(arrays)
    two.restore(arrays)
    lr, target = pairs[0].lr[:4], pairs[0].target[:4]
    losses = [[trainer.step(lr, target, 12, 0.9) for _ in range(2)] for trainer in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    before, after = arrays["critic"][0], one.arrays()["critic"][0]
    assert np.abs(before - after).max() > 0, "the discriminator learns too"


def test_the_discriminator_is_not_trained_by_the_generators_step(pairs):
    settings = TrainingSettings.model_validate(PERCEPTUAL | {"adversarial": {"start": 0.5, "ramp": 0.5, "channels": 4}})
    trainer = Trainer(settings)
    before = [np.array(a) for a in trainer.arrays()["critic"]]
    trainer.step(pairs[0].lr[:4], pairs[0].target[:4], 0, 0.1)  # long before it is asked
    for x, y in zip(before, trainer.arrays()["critic"], strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_start_of_another_network_is_refused(tmp_path, pairs):
    run(tmp_path, pairs, steps=1, validate_every=1)
    other = TrainingSettings.model_validate(QUICK | {"network": {"channels": 12, "blocks": 2}})
    with pytest.raises(InputError, match="of other shapes than this network's"):
        train(*pairs, other, tmp_path / "other", start_from=tmp_path / "model.checkpoint.npz")


def test_a_model_folder_can_be_a_start(tmp_path, pairs):
    """The same function at the first step, other weights refused, what it had seen counts as seen."""
    here = {"crs": "EPSG:26917", "bounds": [0.0, 0.0, 90.0, 90.0]}
    settings = TrainingSettings.model_validate(QUICK | {"steps": 2, "validate_every": 2})
    first = train(*pairs, settings, tmp_path / "model", data="edges", seeds=[101], footprints=[here])
    more = TrainingSettings.model_validate(QUICK | {"steps": 1, "rate": 1e-12, "average": 0.0})
    second = train(*pairs, more, tmp_path / "second", start_from=first.path, seeds=[7], footprints=[])
    image = np.random.default_rng(0).uniform(500, 3000, (20, 24, 4)).astype(np.float32)
    np.testing.assert_allclose(second(image), first(image), atol=0.05)
    areas = {"seeds": [101], "footprints": [here], "areas_complete": True}
    assert second.sidecar.training["history"] == [{"data": "edges", "pairs": 24, **areas, "steps": 2}]
    assert {key: second.sidecar.training[key] for key in areas} == areas | {"seeds": [7, 101]}
    third = train(*pairs, more, tmp_path / "unknown", start_from=second.path).sidecar.training
    assert {key: third[key] for key in areas} == {"seeds": [7, 101], "footprints": [here], "areas_complete": False}
    larger = TrainingSettings.model_validate(QUICK | {"steps": 1, "network": QUICK["network"] | {"channels": 12}})
    with pytest.raises(InputError, match=r"model: its weights are not those of the network .*choose the size, factor and bands"):
        train(*pairs, larger, tmp_path / "third", start_from=first.path)


def test_patience_stops_a_run_that_no_longer_improves(tmp_path, pairs):
    model = run(tmp_path, pairs, steps=1000, validate_every=2, patience=2, rate=1e-12, final_rate=0.0)
    assert model.sidecar.training["steps"] < 30
    assert model.sidecar.training["best_step"] <= model.sidecar.training["steps"]

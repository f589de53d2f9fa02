"""One step of a training, against what its settings promise: the ramp, the moving average, clipping, seeds, and what the discriminator and VGG see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from otbsr.errors import InputError, UsageError
from otbsr.methods.augmentation import Augmentation, augmented
from otbsr.methods.losses import LossWeights, fidelity_loss
from otbsr.methods.objectives import VGG_MEANS, Critic, PerceptualModel
from otbsr.methods.settings import TrainingSettings
from otbsr.methods.trainer import Trainer

NETWORK = {"channels": 4, "blocks": 2, "back_projection": 0}
BASE = {"network": NETWORK, "border": 2, "warmup": 0, "rate": 1e-3, "final_rate": 0.0, "average": 0.9}
ADVERSARIAL = {"start": 0.4, "ramp": 0.2, "channels": 4}


def settings(**also) -> TrainingSettings:
    return TrainingSettings.model_validate(BASE | also)


@pytest.fixture(scope="module", autouse=True)
def eager() -> Iterator[None]:
    """Steps of such small networks cost less than to compile them."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    target = random.uniform(300, 3000, (2, 12, 12, 4)).astype(np.float32).repeat(4, 1).repeat(4, 2)
    return target[:, ::4, ::4] + random.normal(0, 20, (2, 12, 12, 4)).astype(np.float32), target


def moved(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(before, after, strict=True))


def test_the_adversarial_terms_rise_over_the_ramp_and_the_discriminator_begins_a_little_earlier(batch):
    trainer = Trainer(settings(adversarial=ADVERSARIAL))
    found = []
    for share in (0.0, 0.35, 0.4, 0.45, 0.5, 0.6, 0.9):
        before = [np.array(a) for a in trainer.arrays()["critic"]]
        trainer.step(*batch, 0, share)
        found.append((float(trainer.model.strength.numpy()), moved(before, trainer.arrays()["critic"]) > 0))
    assert [strength for strength, _ in found] == pytest.approx([0, 0, 0, 0.25, 0.5, 1, 1], abs=1e-6)
    assert [learns for _, learns in found] == [False, True, True, True, True, True, True]


def test_without_adversarial_terms_p_has_the_loss_of_f(batch):
    """Before the ramp P is trained as F is: its fidelity pre-training; after it the loss has more terms."""
    f, p = Trainer(settings()), Trainer(settings(adversarial=ADVERSARIAL))
    p.restore({name: f.arrays()[name] for name in ("weight", "optimizer", "average")})
    assert p.step(*batch, 0, 0.0) == pytest.approx(f.step(*batch, 0, 0.0), rel=1e-5)
    assert moved(f.arrays()["weight"], p.arrays()["weight"]) < 1e-5
    assert p.step(*batch, 1, 0.9) > 1.01 * f.step(*batch, 1, 0.9)


def test_the_moving_average_by_hand(batch):
    """decay min(0.9, (n + 1) / (n + 10)) after step n, from the weights before the first."""
    trainer = Trainer(settings(average=0.2))
    expected = [np.array(w) for w in trainer.arrays()["weight"]]
    for number in range(4):
        trainer.step(*batch, number, 0.1)
        decay = min(0.2, (number + 1) / (number + 10))
        expected = [decay * mean + (1 - decay) * weight for mean, weight in zip(expected, trainer.arrays()["weight"], strict=True)]
    assert moved(expected, trainer.averages) < 1e-6
    assert moved(trainer.arrays()["weight"], trainer.averages) > 1e-6, "what is exported is the average"
    served = trainer.averaged()
    trainer.restore(trainer.arrays() | {"weight": trainer.averages})
    assert moved(served.get_weights(), trainer.averaged().get_weights()) == 0


def test_the_gradient_is_clipped(batch):
    """Adam divides by the gradient's size but for its epsilon of 1e-7: clipped far below that, nothing moves."""
    steps = []
    for clip in (1.0, 1e-12):
        trainer = Trainer(settings(clip=clip))
        before = [np.array(w) for w in trainer.arrays()["weight"]]
        trainer.step(*batch, 0, 0.0)
        steps.append(moved(before, trainer.arrays()["weight"]))
    assert steps[0] == pytest.approx(1e-3, rel=0.01) and steps[1] < 1e-7


def test_a_seed_fixes_the_weights():
    one, again, other = (Trainer(settings(seed=seed)).arrays()["weight"] for seed in (3, 3, 4))
    assert moved(one, again) == 0 < moved(one, other)


def test_the_rate_warms_up_and_falls_along_a_cosine(batch):
    trainer = Trainer(settings(warmup=4, final_rate=1e-4))
    rates = []
    for number, share in ((0, 0.0), (3, 0.0), (9, 0.5), (99, 1.0)):
        trainer.step(*batch, number, share)
        rates.append(trainer.rate)
    assert rates == pytest.approx([0.25e-3, 1e-3, 1e-4 + 0.45e-3, 1e-4])


@pytest.mark.parametrize("factor", [2, 3])
def test_the_discriminator_sees_the_input(factor):
    """The same fine image beside another input has other scores, near what was changed only; both are compared on one grid."""
    critic = Critic(TrainingSettings.model_validate({"network": NETWORK | {"factor": factor}, "adversarial": {"channels": 4}}))
    random = np.random.default_rng(1)
    lr, fine = (random.normal(0, 1, (1, size, size, 4)).astype(np.float32) for size in (24, 24 * factor))
    other = lr.copy()
    other[0, 2, 2] += 5
    scores, again = (np.asarray(critic.look(x, fine)[-1]) for x in (lr, other))
    assert scores.shape[3] == 1 and min(scores.shape[1:3]) > 4, "a patch discriminator: one score for each place"
    rows = np.flatnonzero(np.abs(again - scores)[0, ..., 0].max(1) > 1e-6)
    assert rows.size and rows.max() < scores.shape[1] // 2


def test_a_shifted_target_costs_nothing_within_the_registration():
    """What is the target but for a displacement by (1, -2) pixels has no loss with a search of 2, and one without."""
    large = np.random.default_rng(2).normal(1, 1, (1, 24, 24, 2)).astype(np.float32)
    target, result = large[:, 5:-3, 2:-6], large[:, 4:-4, 4:-4]
    weights = LossWeights(spectral=0, consistency=0)
    kernels, lr = np.full((4, 4, 2), 1 / 16, np.float32), np.zeros((1, 4, 4, 2), np.float32)
    losses = [float(fidelity_loss(lr, target, result, kernels, 4, weights.model_copy(update={"registration": n}))) for n in (0, 1, 2)]
    assert losses[2] == pytest.approx(0, abs=1e-6) and min(losses[:2]) > 0.5


def test_all_eight_turns_and_flips_are_drawn():
    mark = np.zeros((1, 4, 4, 1), np.float32)
    mark[0, 0, 1] = 1000
    still = Augmentation(gain=0, band_gain=0, offset=0, noise=0, anew=0)
    seen = set()
    for seed in range(80):
        lr, target = augmented(mark, mark.repeat(2, 1).repeat(2, 2), still, np.random.default_rng(seed))
        np.testing.assert_array_equal(target[:, ::2, ::2], lr)
        seen.add(tuple(np.argwhere(lr[0, ..., 0] == 1000)[0]))
    assert seen == {(0, 1), (0, 2), (1, 0), (2, 0), (1, 3), (2, 3), (3, 1), (3, 2)}


def test_vgg_sees_photographs(tmp_path):
    """Blue, green, red from 0 to 255 for reflectance 0 to 0.3, less its means; what else it is given is told in one line."""
    import keras

    wide = {"channels": 4, "blocks": 2, "back_projection": 0, "bands": ("B8", "B2", "B3", "B4")}
    weights = tmp_path / "vgg19.weights.h5"
    keras.applications.VGG19(include_top=False, weights=None, input_shape=(None, None, 3)).save_weights(weights)

    def model(**also) -> PerceptualModel:
        chosen = settings(network=wide | also, adversarial=ADVERSARIAL | {"perceptual": str(weights)})
        return PerceptualModel(chosen, Critic(chosen))

    seen = model()
    image = np.broadcast_to(np.array([9.0, 0.0, 1.5, 3.0], np.float32), (1, 40, 40, 4))  # over the spread: 1 is reflectance 0.1
    np.testing.assert_allclose(np.asarray(seen.photograph(image))[0, 0, 0], np.array([0, 127.5, 255]) - VGG_MEANS, rtol=1e-5)
    features = seen.eyes(seen.photograph(image))
    assert [x.shape[-1] for x in features] == [256, 512] and not seen.eyes.trainable_variables
    lr, fine = np.full((1, 16, 16, 4), 900, np.float32), np.full((1, 64, 64, 4), 900, np.float32)
    rough = fine + np.random.default_rng(3).normal(0, 300, fine.shape).astype(np.float32)
    seen.strength.assign(1)
    plain = PerceptualModel(chosen := settings(network=wide, adversarial=ADVERSARIAL), seen.critic)
    plain.strength.assign(1)
    assert chosen.adversarial.perceptual == ""
    assert float(seen.compute_loss(lr, fine, rough)) > float(plain.compute_loss(lr, fine, rough)) + 1e-3
    with pytest.raises(UsageError, match=r"VGG19 sees red, green and blue, B4 is not among the bands out B8 B2 B3"):
        model(outputs=("B8", "B2", "B3"))
    Path(weights).write_text("no weights")
    with pytest.raises(InputError, match=r"vgg19.weights.h5: holds no weights of keras.applications' VGG19 without top"):
        model()
    weights.unlink()
    with pytest.raises(InputError, match=r"no such file; adversarial.perceptual wants the weights"):
        model()
    assert math.isfinite(float(plain.compute_loss(lr, fine, rough)))

"""LoTUS: its targets, their temperature, and what it forgets on retained support."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.lotus import Lotus
from tests.unlearning.helpers import GONE, KEPT, Lab, on_logits

adam = partial(torch.optim.Adam, lr=3e-3)


ANSWER = torch.tensor([1.5, -0.5, 0.7, 0.2, -1.0])
DRAWS = 40_000


@pytest.mark.parametrize("support", ["all", "retained"])
def test_lotus_targets_have_the_documented_distribution(support: str) -> None:
    torch.manual_seed(2)
    method, z = Lotus(forget=GONE, support=support), ANSWER.double().numpy().copy()
    if support == "retained":
        z[list(GONE)] = -np.inf
    answers = ANSWER.repeat(DRAWS, 1)
    method.temperature = math.exp(80)  # of the forget set alone
    drawn = method.targets(answers, torch.zeros(DRAWS, dtype=torch.bool))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert (drawn.sum(dim=1) == 1).all()
    # a share of 40 000 draws has a deviation of at most 0.0025
    assert drawn.mean(dim=0).numpy() == pytest.approx(softmax(z), abs=0.011)
    method.temperature = 2.0
    soft = method.targets(answers, torch.ones(DRAWS, dtype=torch.bool)).numpy()
    noise = np.random.default_rng(0).gumbel(size=(DRAWS, 5))
    expected = softmax((z + noise) / 2.0, axis=1)
    assert soft.mean(axis=0) == pytest.approx(expected.mean(axis=0), abs=0.01)
    assert soft.std(axis=0) == pytest.approx(expected.std(axis=0), abs=0.01)
    method.temperature = math.exp(32)  # all accuracy is left: uniform over the support
    level = method.targets(50 * ANSWER.repeat(9, 1), torch.ones(9, dtype=torch.bool))
    uniform = torch.full((9, 5), 0.2)
    if support == "retained":
        uniform = torch.zeros(9, 5)
        uniform[:, list(KEPT)] = 1 / 3
    torch.testing.assert_close(level, uniform)


def test_lotus_temperature_is_e_to_alpha_times_the_remaining_accuracy() -> None:
    labels = torch.tensor([1, 1, 3, 3])
    for alpha, right, expected in [
        *((32.0, 4, math.exp(32)), (32.0, 1, math.exp(8)), (2.0, 2, math.e), (32.0, 0, 1.0)),
        (1e9, 4, math.exp(80)),  # bounded
    ]:
        answers = nn.functional.one_hot(labels, 5).float()
        answers[right:] = answers[right:].roll(1, dims=1)
        batch = labelled_batch(answers, labels, GONE)
        method = on_logits(Lotus(forget=GONE, alpha=alpha), answers)
        method.measured = [batch]
        method.on_train_batch_start(batch, 0)
        assert method.temperature == pytest.approx(expected)
        assert method.loss_terms(batch)["forget"].isfinite()


def test_lotus_measures_every_few_steps_on_a_bounded_number_of_unaugmented_images(lab: Lab) -> None:
    class Watched(Lotus):
        def prepare(self, *given: Any) -> None:
            super().prepare(*given)
            self.found: list[float] = []

        def forget_accuracy(self) -> float:
            before = [t.clone() for t in self.classifier.buffers()]
            self.found.append(super().forget_accuracy())
            assert all(map(torch.equal, before, self.classifier.buffers()))
            self.classifier_was_training = self.classifier.training
            return self.found[-1]

    settings: Any = {"steps": 5, "optimizer": adam, "batch_size": 6, "batch_norm": "train"}
    for every, measured in ((2, 3), (5, 1)):
        lab.opened.clear()
        lab.read.clear()
        method = Watched(forget=GONE, temperature_every=every, measured_images=12, **settings)
        lab.run(method)
        assert len(method.found) == measured
        assert method.found[0] == 1.0  # the kit's classifier knows every image
        assert method.classifier_was_training  # measuring restores the mode
        assert [split for split, _, seed in lab.opened if seed is None] == ["forget"]
        assert len(lab.read) == 30 + 27 + 12 * measured  # an epoch of 27 is in even batches

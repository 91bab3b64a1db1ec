"""Finetune: the loss."""

import pytest
from scipy.special import log_softmax

from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.finetune import FineTune
from tests.unlearning.helpers import FORGOTTEN, GONE, LABELS, logits, on_logits, values


def test_the_loss_is_the_cross_entropy_of_the_retain_set() -> None:
    now, z = logits(1)
    loss = -log_softmax(z, axis=1)[range(6), LABELS][~FORGOTTEN].mean()
    found = on_logits(FineTune(forget=GONE)).loss_terms(labelled_batch(now, LABELS, GONE))
    assert values(found) == {"retain": pytest.approx(loss, rel=1e-5)}

"""Every metric on models whose answers are known, see `worlds`."""

import math
from typing import Any

import numpy as np
import pytest

from geniu_lightning.evaluation.attacks.head import Head
from geniu_lightning.evaluation.attacks.membership import SCORES, Membership
from geniu_lightning.evaluation.attacks.probing import Probe, Prototype
from geniu_lightning.evaluation.attacks.retained_attack import RetainedAttack
from geniu_lightning.evaluation.evaluator import Evaluator
from geniu_lightning.evaluation.metric import Absent
from geniu_lightning.evaluation.metrics.accuracy import Accuracy
from geniu_lightning.evaluation.metrics.confusion import Confusion
from geniu_lightning.evaluation.metrics.divergence import Divergence, RandomTeacher
from geniu_lightning.evaluation.metrics.quantisation import Quantisation
from geniu_lightning.evaluation.metrics.representation import CKA
from geniu_lightning.evaluation.metrics.scores import Scores
from tests.evaluation.worlds import SUNK, T, context_of, rigged

ALIKE = Absent("a forgotten class has a row of zeros, or features like those of all others")
EQUAL = Absent("the biases of retained classes do not differ")
FLAT = Absent("all retained classes get the same share of the answers")
NO_ROWS = Absent("the rows of retained classes are zero")
STILL = Absent("features of a model do not vary among these images, or are not finite")
LOG9, PEAK = math.log(9), 81 / 89  # entropy of nine equal shares, and the oracle's largest q
NARROW = -PEAK * math.log(PEAK) + 8 / 89 * math.log(89)
# alignment of e_0 is seen from a mean of a tenth of every class; what the memoriser adds to an
# oracle's row only training images show
INSIDE, FAR = 0.9 / np.sqrt(0.9), np.sqrt(9 + (T - SUNK) ** 2) / T
SEEN = 8.5 / 9  # the oracle takes half of class 2 for class 0

METRICS = {
    "accuracy": Accuracy(),
    "confusion": Confusion(),
    "divergence": Divergence(),
    "random_teacher": RandomTeacher(),
    "scores": Scores(),
    "membership": Membership(),
    "retained_attack": RetainedAttack(),
    "prototype": Prototype(),
    "probe": Probe(),
    "head": Head(),
    "cka": CKA(),
    "quantisation": Quantisation(),
}
KNOWN: dict[str, tuple[Any, ...]] = {  # original, oracle, mask, uniform, memoriser, collapsed
    "accuracy.test.forget": (1.0, 0.0, 0.0, 0.1, 0.0, 0.0),
    "accuracy.train.forget": (1.0, 0.0, 0.0, 0.1, 1.0, 0.0),
    "accuracy.test.retain": (1.0, 1.0, 1.0, 0.1, 1.0, 1 / 9),
    "accuracy.test.retain_micro": (1.0, 1.0, 1.0, 0.1, 1.0, 1 / 9),
    "accuracy.test.retain_minority": (1.0, 1.0, 1.0, 0.1, 1.0, 0.0),
    "accuracy.test.retain_majority": (1.0, 1.0, 1.0, 0.1, 1.0, 1.0),
    "accuracy.test.worst_retained": (1.0, 1.0, 1.0, 0.1, 1.0, 0.0),
    "accuracy.test.retain_by_frequency": (1.0, 1.0, 1.0, 0.1, 1.0, 5 / 9),
    "accuracy.train.retain_micro": (1.0, 1.0, 1.0, 0.1, 1.0, 5 / 9),
    "accuracy.generalisation.retain": (0.0,) * 6,
    "accuracy.generalisation.forget": (0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    "confusion.attractor": (0.0, 0.0, 1 / 9, 0.1, 0.0, 1.0),
    "confusion.distance": (1.0, 0.0, 8 / 9, 0.9, 0.0, 1.0),
    "confusion.attractor_retained": (0.0, 0.0, 0.0, 0.1, 0.0, 1.0),
    "confusion.rank_correlation": (FLAT, -1 / 8, FLAT, FLAT, -1 / 8, 1.0),
    "confusion.retained_entropy": (LOG9, NARROW, LOG9, LOG9, NARROW, NARROW),
    "confusion.retained_top1": (1 / 9, PEAK, 1 / 9, 1 / 9, PEAK, PEAK),
    "divergence.test_forget.js": (0.6011, 0.0, 0.3674, 0.3844, 0.0, 0.5786),
    "divergence.train_forget.js": (0.6011, 0.0, 0.3674, 0.3844, 0.6011, 0.5786),
    "divergence.test_forget.kl": (4.0106, 0.0, 1.7080, 1.8134, 0.0, 3.9612),
    "divergence.test_forget.kl_median": (4.0106, 0.0, 1.7080, 1.8134, 0.0, 3.9612),
    "divergence.test_forget.activation": (1.2721, 0.0, 0.8475, 0.8540, 0.0, 1.2642),
    "divergence.test_forget.agreement": (0.0, 1.0, 1 / 9, 0.1, 1.0, 0.0),
    "divergence.test_retain.agreement": (1.0, 1.0, 1.0, 0.1, 1.0, 1 / 9),
    "random_teacher.normalised": (0.4690, 0.4454, 0.9481, 1.0, 0.4454, 0.4690),
    "random_teacher.nats": (0.6319, 0.6156, 0.9640, 1.0, 0.6156, 0.6319),
    "scores.tow": (0.0, 1.0, 1.0, 0.0090, 0.0, 0.0123),
    "scores.tow_mia": (1.0, 1.0, 1.0, 0.01, 0.5, 1 / 81),
    "scores.aus": (0.5, 1.0, 1.0, 0.0909, 1.0, 0.1111),
    "scores.nomus": (1.0, 1.0, 1.0, 0.55, 0.5, 0.5556),
    **{f"membership.{score}.leak": (0.5, 0.5, 0.5, 0.5, 1.0, 0.5) for score in SCORES},
    "membership.loss.auc": (0.5, 0.5, 0.5, 0.5, 1.0, 0.5),
    "membership.loss.tpr": (0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    # the memoriser is surest of what it never saw, so the order is reversed
    "membership.entropy.auc": (0.5, 0.5, 0.5, 0.5, 0.0, 0.5),
    "membership.standard_error": (0.0409,) * 6,
    "membership.retained_control.leak": (0.5,) * 6,
    "retained_attack.auc": (1.0, 0.5, 1.0, 1.0, 0.5, 1.0),
    "retained_attack.distance": (0.7990, 0.0, 0.7990, 0.7990, 0.0, 0.8989),
    # what the memoriser shows on training images of class 0 is not how it sees test images
    **dict.fromkeys(
        ("probe.recall", "prototype.k1.recall", "prototype.k5.recall", "prototype.all.recall"),
        (1.0, 0.5, 1.0, 0.1, 0.0, 0.1),
    ),
    **dict.fromkeys(("probe.retain", "prototype.all.retain"), (1.0, SEEN, 1.0, 0.1, 1.0, 0.1)),
    "probe.net": (1.0, 0.5 - 0.5 / 9, 1.0, 0.0, 0.0, 0.0),
    "head.repair": (1.0, 0.0, 1.0, 0.1, 0.0, 0.0),
    "head.repair_retain": (1.0, 1.0, 1.0, 0.1, 1.0, 1 / 9),
    "head.transplant": (1.0, 0.0, 1.0, 0.1, 0.0, 0.0),
    "head.transplant_retain": (1.0, 1.0, 1.0, 0.1, 1.0, 1 / 9),
    "head.row_norm": (1.0, 3 / T, 1.0, NO_ROWS, FAR, 1.0),
    "head.alignment": (INSIDE, 0.0, INSIDE, ALIKE, 0.0, ALIKE),
    **dict.fromkeys(
        ("quantisation.b8.forget", "quantisation.b4.forget"), (1.0, 0.0, 0.0, 0.1, 0.0, 0.0)
    ),
    "quantisation.b4.retain": (1.0, 1.0, 1.0, 0.1, 1.0, 1 / 9),
    "head.bias_anomaly": (EQUAL,) * 6,
    **dict.fromkeys(("cka.test_forget.original", "cka.test_forget.oracle"), (STILL,) * 6),
    **dict.fromkeys(
        ("cka.test_retain.original", "cka.test_retain.oracle"), (1.0, 1.0, 1.0, STILL, 1.0, STILL)
    ),
}


def test_rigged_models_have_their_known_values() -> None:
    for place, (model, network) in enumerate(rigged().items()):
        context = context_of(network, fresh=lambda seed: rigged()["uniform"])
        found = Evaluator(METRICS).evaluate(context).values
        for name, known in KNOWN.items():
            value = known[place]
            if isinstance(value, float):
                value = pytest.approx(value, rel=1e-5, abs=1e-4)
            assert found[name] == value, (model, name)

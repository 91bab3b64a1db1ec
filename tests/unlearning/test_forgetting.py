"""What a few steps of each method do to a classifier that is sure of every image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.bad_teacher import BadTeacher
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.boundary_expand import BoundaryExpand
from geniu_lightning.unlearning.boundary_shrink import BoundaryShrink
from geniu_lightning.unlearning.delete import Delete
from geniu_lightning.unlearning.finetune import FineTune
from geniu_lightning.unlearning.gradient_ascent import GradientAscent
from geniu_lightning.unlearning.impair_repair import ImpairRepair
from geniu_lightning.unlearning.lotus import Lotus
from geniu_lightning.unlearning.masked_distill import MaskedDistill
from geniu_lightning.unlearning.neg_grad_plus import NegGradPlus
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.salun import SalUn
from geniu_lightning.unlearning.scrub import Scrub
from geniu_lightning.unlearning.ssd import Ssd
from geniu_lightning.unlearning.unsir import Unsir
from tests.unlearning.helpers import GONE, TrainerOf, own_probability, run


class Nudged(Scrub):
    """Starts a little away from its teacher, so that rounding decides no direction."""

    def prepare(self, *given: Any) -> None:
        super().prepare(*given)
        with torch.no_grad():
            self.classifier.head.bias[list(self.forget)] -= 0.1


adam = partial(torch.optim.Adam, lr=3e-3)
sgd = partial(torch.optim.SGD, lr=0.02)
momentum = partial(sgd, momentum=0.9)
phases = {"impair_steps": 5, "repair_steps": 15, "repair_rate": 2e-3}
by_adam: dict[str, Any] = {"optimizer": adam, "steps": 20}
by_sgd: dict[str, Any] = {"optimizer": sgd, "steps": 20, "batch_size": 18}
by_momentum: dict[str, Any] = {"optimizer": momentum, "steps": 20}
rounds = {"rounds": 3, "max_rounds": 2, "max_steps": 5, "min_steps": 8}
unsir = {"impair_steps": 15, "repair_steps": 5, "repair_rate": 1e-3, "noise_images": 8}
# most of the forget classes' probability, least of the retained ones', settings and their variants
CASES: dict[Callable[..., Unlearner], tuple[float, float, dict[str, Any], list[dict[str, Any]]]] = {
    BadTeacher: (0.4, 0.75, by_adam, [{"teacher": "random"}, {"teacher": "uniform"}]),
    BoundaryExpand: (0.5, 0.75, by_sgd, [{"source": "data"}, {"source": "proxies"}]),
    BoundaryShrink: (0.5, 0.75, by_sgd, [{"source": "data"}, {"source": "proxies"}]),
    Delete: (
        0.3,
        0.75,
        by_sgd | {"optimizer": partial(torch.optim.SGD, lr=0.03)},
        [{"source": "data"}, {"source": "proxies"}],
    ),
    FineTune: (0.9, 0.95, {"optimizer": partial(momentum, lr=0.05), "steps": 30}, [{}]),
    GradientAscent: (
        0.6,
        0.5,
        by_sgd | {"steps": 25},
        [{"loss_term": term} for term in ("negative", "reciprocal", "uniform")],
    ),
    ImpairRepair: (
        0.5,
        0.85,
        phases | {"optimizer": partial(adam, lr=2e-3)},
        [
            {"forget_term": "reciprocal"},
            {"forget_term": "negative", "source": "proxies"},
            {"forget_term": "random_label"},
        ],
    ),
    Lotus: (
        0.35,
        0.7,
        by_adam | {"steps": 30, "support": "retained", "temperature_every": 5},
        [{"source": "data"}, {"source": "proxies"}],
    ),
    MaskedDistill: (
        0.3,
        0.75,
        by_adam | {"batch_size": 18},
        [{"source": name} for name in ("data", "proxies", "mix")],
    ),
    NegGradPlus: (0.3, 0.75, by_momentum | {"beta": 0.8}, [{}]),
    Nudged: (0.5, 0.75, rounds | {"optimizer": adam}, [{}]),
    RandomLabel: (0.3, 0.8, by_momentum, [{}]),
    SalUn: (0.3, 0.8, by_momentum, [{}]),
    Ssd: (0.5, 0.5, {"alpha": 3.0}, [{"source": "data"}, {"source": "proxies"}]),
    Unsir: (
        0.5,
        0.85,
        unsir | {"optimizer": adam, "noise_steps": 20},
        [{"source": "data"}, {"source": "proxies"}],
    ),
}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_a_few_steps_forget_and_retain(
    kind: Callable[..., Unlearner], kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    most, least, settings, variants = CASES[kind]
    common: Any = {"forget": GONE, "batch_size": 9, "max_gradient_norm": 1.0}
    assert own_probability(kit.classifier, archive)[0] > 0.9
    for variant in variants:
        method = kind(**common | settings | variant)
        forget, retain = own_probability(run(method, kit, archive, trainer_of), archive)
        assert forget < most, variant
        assert retain > least, variant

"""What a few steps of each method do to a classifier that is sure of every image."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from geniu_lightning.unlearning.bad_teacher import BadTeacher
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.boundary_expand import BoundaryExpand
from geniu_lightning.unlearning.boundary_shrink import BoundaryShrink
from geniu_lightning.unlearning.delete import Delete
from geniu_lightning.unlearning.emmn import Emmn
from geniu_lightning.unlearning.finetune import FineTune
from geniu_lightning.unlearning.gradient_ascent import GradientAscent
from geniu_lightning.unlearning.impair_repair import ImpairRepair
from geniu_lightning.unlearning.jit import Jit
from geniu_lightning.unlearning.lotus import Lotus
from geniu_lightning.unlearning.masked_distill import MaskedDistill
from geniu_lightning.unlearning.neg_grad_plus import NegGradPlus
from geniu_lightning.unlearning.random_label import RandomLabel
from geniu_lightning.unlearning.salun import SalUn
from geniu_lightning.unlearning.scrub import Scrub
from geniu_lightning.unlearning.ssd import Ssd
from geniu_lightning.unlearning.unsir import Unsir
from tests.unlearning.helpers import GONE, Lab


class Nudged(Scrub):
    """Starts a little away from its teacher, so that rounding decides no direction."""

    def prepare(self, *given: Any) -> None:
        super().prepare(*given)
        with torch.no_grad():
            self.classifier.head.bias[list(self.forget)] -= 0.1


PROXIES = {"source": "proxies"}
adam = {"optimizer": partial(torch.optim.Adam, lr=3e-3)}
momentum = {"optimizer": partial(torch.optim.SGD, lr=0.02, momentum=0.9)}
plain = {"optimizer": partial(torch.optim.SGD, lr=0.02), "batch_size": 18}
steep = {"optimizer": partial(torch.optim.SGD, lr=0.03), "batch_size": 18}
fast = {"optimizer": partial(torch.optim.SGD, lr=0.05, momentum=0.9)}
repair = {"impair_steps": 5, "repair_steps": 15, "repair_rate": 2e-3}
repair |= {"optimizer": partial(torch.optim.Adam, lr=2e-3)}
rounds = {"rounds": 3, "max_rounds": 2, "max_steps": 5, "min_steps": 8}
retained = {"steps": 30, "support": "retained", "temperature_every": 5}
noise = {"impair_steps": 15, "repair_steps": 5, "repair_rate": 1e-3, "noise_images": 8}
emmn = {"impair_steps": 40, "repair_steps": 0, "repair_rate": 1e-3, "images_per_class": 8}
emmn |= {"noise_steps": 20, "batch_size": 20, "optimizer": partial(torch.optim.Adam, lr=3e-3)}
# at most this probability of the forget classes, at least this of the retained ones
CASES: dict[Callable[..., Unlearner], tuple[float, float, list[dict[str, Any]]]] = {
    BadTeacher: (0.4, 0.75, [adam | {"teacher": name} for name in ("random", "uniform")]),
    BoundaryExpand: (0.5, 0.75, [plain, plain | PROXIES]),
    BoundaryShrink: (0.5, 0.75, [plain, plain | PROXIES]),
    Emmn: (0.4, 0.5, [emmn]),
    Delete: (0.3, 0.75, [steep, steep | PROXIES]),
    FineTune: (0.9, 0.95, [fast | {"steps": 30}]),
    GradientAscent: (
        *(0.6, 0.5),
        [plain | {"steps": 25, "loss_term": x} for x in ("negative", "reciprocal", "uniform")],
    ),
    ImpairRepair: (
        *(0.5, 0.85),
        [repair | {"forget_term": x} for x in ("reciprocal", "negative", "random_label")]
        + [repair | PROXIES],
    ),
    Jit: (0.65, 0.0, [fast | {"steps": 30, "batch_size": 64}]),
    Lotus: (0.35, 0.7, [adam | retained, adam | retained | PROXIES]),
    MaskedDistill: (
        *(0.3, 0.75),
        [adam | {"batch_size": 18, "source": name} for name in ("data", "proxies", "mix")],
    ),
    NegGradPlus: (0.3, 0.75, [momentum | {"beta": 0.8}]),
    Nudged: (0.5, 0.75, [adam | rounds]),
    RandomLabel: (0.3, 0.8, [momentum]),
    SalUn: (0.3, 0.8, [momentum]),
    Ssd: (0.5, 0.5, [{"alpha": 3.0}, {"alpha": 3.0} | PROXIES]),
    Unsir: (0.5, 0.85, [adam | noise, adam | noise | PROXIES]),
}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_a_few_steps_forget_and_retain(kind: Callable[..., Unlearner], lab: Lab) -> None:
    most, least, variants = CASES[kind]
    common: Any = {"forget": GONE, "batch_size": 9, "max_gradient_norm": 1.0}
    # some count their steps otherwise, or take none
    common |= {} if kind in (Emmn, ImpairRepair, Nudged, Ssd, Unsir) else {"steps": 20}
    assert lab.own_probability(lab.kit.classifier)[0] > 0.9
    for variant in variants:
        method = kind(**common | variant)
        forget, retain = lab.own_probability(lab.run(method))
        assert forget < most, variant
        assert retain > least, variant

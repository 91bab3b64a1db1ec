"""Settings of training, as in `conf/training/default.yaml`: the one place of their defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.fitting.optim import OptimizerFactory, Schedule, recorded_optimizer
from geniu_lightning.settings.checked import (
    NonNegative,
    NonNegativeInt,
    Positive,
    PositiveInt,
    checked,
)
from geniu_lightning.training.exemplars import ExemplarStrategy

When = Literal["during", "after"]

GENERATOR_OPTIMIZER = partial(torch.optim.Adam, lr=0.001, fused=True)
PROMPT_OPTIMIZER = partial(torch.optim.Adam, lr=0.1)


@checked
@dataclass(frozen=True, kw_only=True)
class ProxySettings:
    """How prompts and generator are trained.

    Args:
        exemplar_strategy: See `ExemplarSelector`.
        exemplars_until: Share of the classifier's epochs in which exemplars are chosen anew. A
            generator whose targets change to the end shows the mean of them.
        when: `during` the classifier's epochs (the paper's) or `after` them, in one more epoch in
            which the classifier rests (the paper's post-hoc ablation).
        every_n_steps: Classifier steps for each update of prompts and generator.
        min_generator_steps: Least number of updates of the generator. On a small set, one in
            `every_n_steps` is too few.
        prompt_batch: Prompts in an update; two or more, for the generator's batch statistics.
        generator_optimizer: Its rate falls along a cosine, like the prompts'.
        reconstruction_weight: Of the squared error, which is summed over pixels.
        divergence_weight: Of the divergence, which is summed over latents, in nats.

    Source:
        GENIU, arXiv 2406.07885. Weights, optimizers and numbers of updates are ours: the paper's
        are not recovered.
    """

    proxies_per_class: PositiveInt = 10
    exemplar_strategy: ExemplarStrategy = "max_entropy"
    exemplars_until: Annotated[float, Field(gt=0, le=1)] = 0.5
    when: When = "during"
    every_n_steps: PositiveInt = 4
    min_generator_steps: NonNegativeInt = 1000
    prompt_batch: Annotated[int, Field(ge=2)] = 20
    generator_optimizer: OptimizerFactory = GENERATOR_OPTIMIZER
    prompt_optimizer: OptimizerFactory = PROMPT_OPTIMIZER
    prompt_weight: NonNegative = 1.0
    reconstruction_weight: NonNegative = 1.0
    divergence_weight: NonNegative = 0.1

    def plain(self) -> dict[str, Any]:
        """Return the settings that are plain values: all but the optimizers."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if not callable(value)}


@checked
@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ProxySettings):
    """How the classifier is trained, and prompts and generator with it.

    Args:
        batch_size: Images in a batch, all processes together.
        schedule: Of the classifier's learning rate.
        max_gradient_norm: Bound of its gradient; `None` leaves it.
    """

    epochs: PositiveInt
    optimizer: OptimizerFactory
    batch_size: PositiveInt = 64
    schedule: Schedule = "onecycle"
    max_gradient_norm: Positive | None = None
    log_every_n_steps: PositiveInt = 50


def recorded_settings(record: Mapping[str, Any]) -> TrainingSettings:
    """Return the settings that a kit's training recorded; what anyone may write runs no code."""
    settings = {name: value for name, value in record.items() if not name.startswith("_")}
    for name in ("optimizer", "generator_optimizer", "prompt_optimizer"):
        if name in settings:
            settings[name] = recorded_optimizer(settings[name])
    try:
        return TrainingSettings(**settings)
    except SettingError as error:
        raise UserError(f"the kit's record of its training cannot be followed: {error}") from error

"""The kit for the next request: without contents of the forgotten classes, its generator fresh."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import KitInfo
from geniu_lightning.seeds import stream
from geniu_lightning.training.proxies import ProxyTrainer
from geniu_lightning.training.schedule import Updates, UpdateSchedule
from geniu_lightning.training.settings import ProxySettings

# settings that a kit records and its next generator follows, where it does; others are defaults
RECORDED = ("min_generator_steps", "prompt_batch", "reconstruction_weight", "divergence_weight")


def next_kit(
    kit: Kit, classifier: nn.Module, forget: Sequence[int], seed: int, prior_taken: float = 0.0
) -> Kit:
    """Return a kit whose contents are of the retained classes alone.

    Of an archive and of distributions the parts of forgotten classes are left out, and all else of
    them stays as it is, the decoder too. The generator is a fresh one, which learns to draw from
    the retained prompts what the old one draws of them, a little blurrier, and sees nothing else:
    the old one has the forgotten classes in its weights. Names and counts of all classes stay in
    the description.

    Steps, batch and weights are those that the kit's training recorded (of steps the least number),
    or the defaults of `ProxySettings`, whose optimizer it also takes.

    Args:
        kit: On the device to work on; unchanged afterwards.
        classifier: The unlearned one, on the same device.
        forget: Forgotten classes, by index; those of earlier requests are added.
        seed: Unlearning seed.
        prior_taken: Share of the class prior that unlearning took out of the logits.
    """
    forgotten = all_forgotten(kit, forget)
    taken = kit.info.prior_taken + prior_taken
    info = dataclasses.replace(
        kit.info,
        forgotten=forgotten,
        prior_taken=taken,
        archive=kit.info.archive and kit.info.archive.without(forgotten),
        distribution=kit.info.distribution and kit.info.distribution.without(forgotten),
    )
    archive = {k: part for k, part in kit.archive.items() if k not in forgotten}
    distribution = kit.distribution and kit.distribution.without(forgotten)
    if kit.prompts is None and distribution is None and not archive:
        raise KitError("the kit holds neither prompts, distributions nor an archive to go on with")
    prompts, generator = (None, None) if kit.prompts is None else _next_proxies(kit, info, seed)
    return Kit(classifier, info, generator, prompts, archive, distribution)


def _next_proxies(kit: Kit, info: KitInfo, seed: int) -> tuple[Tensor, nn.Module]:
    """Return the retained prompts, and a fresh generator that learned to draw from them."""
    prompts = kit.prompts_of(info.remaining).images
    targets = kit.decode(prompts)
    assert kit.generator is not None  # as the caller found
    assert kit.info.generator is not None
    recipe: dict[str, Any] = kit.info.settings.get("training", {})
    recipe = recipe | kit.info.settings.get("callback", {})  # which trained the prompts, if it did
    known = {name: recipe[name] for name in RECORDED if name in recipe}
    settings = ProxySettings(proxies_per_class=len(prompts) // len(info.remaining), **known)
    steps = settings.min_generator_steps or ProxySettings.min_generator_steps
    # of earlier requests, too: the generator of the second must not begin as that of the first did
    init_seed, draw_seed = (
        stream(name, seed, *kit.info.forgotten) for name in ("next_generator", "next_prompts")
    )
    with torch.random.fork_rng():
        torch.manual_seed(init_seed)
        generator = type(kit.generator)(**kit.info.generator.arguments).to(prompts.device)
    trainer = ProxyTrainer(
        generator.train(),
        nn.Parameter(prompts, requires_grad=False),
        settings,
        UpdateSchedule(first_step=0, steps=steps, total=Updates(prompts=0, generator=steps)),
        draw_seed,
        alone=True,  # the first process writes the kit, when the others have gone on
    )
    trainer.configure_optimizers()
    with torch.enable_grad():
        for step in range(steps):
            trainer.train_step(step, classifier=None, exemplars=targets)
    return prompts.unflatten(0, (len(info.remaining), -1)).clone(), generator


def all_forgotten(kit: Kit, forget: Sequence[int]) -> tuple[int, ...]:
    """Return all classes that a new kit has forgotten; refuse what cannot be made."""
    classes = range(len(kit.info.class_names))
    wrong = [k for k in forget if k not in classes]
    if wrong or not forget:
        raise UserError(
            f"say which classes to forget, by index from 0 to {classes[-1]}; got {list(forget)}"
        )
    forgotten = tuple(sorted({*forget, *kit.info.forgotten}))
    left = len(classes) - len(forgotten)
    if kit.prompts is not None and left * kit.prompts.shape[1] < 2:
        raise UserError(
            "fewer than two prompts would be left, too few to train a generator on: set"
            " next_kit=false"
        )
    return forgotten

"""The kit for the next request: without prompts of the forgotten classes, its generator fresh."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from geniu_lightning.errors import UserError
from geniu_lightning.fitting.optim import schedule_of
from geniu_lightning.kit.file import Kit
from geniu_lightning.seeds import stream
from geniu_lightning.training.losses import ProxyTerms

STEPS, PROMPT_BATCH, RATE = 1000, 20, 1e-3  # what kits are trained with, where one does not say


def next_kit(
    kit: Kit, classifier: nn.Module, forget: Sequence[int], seed: int, prior_taken: float = 0.0
) -> Kit:
    """Return a kit whose prompts and generator are of the retained classes alone.

    The prompts of the forgotten classes are left out, the classifier is the unlearned one, and the
    generator is a fresh one, which learns to draw from the other prompts what the old one draws of
    them. It sees nothing else, where the old one had the forgotten classes in its weights. Names
    and counts of all classes stay in the description.

    Steps and batch are those that the kit's training recorded as the least; where it recorded
    none, 1000 and 20.

    Args:
        kit: With a generator, on the device to work on; unchanged afterwards.
        classifier: What came of unlearning, on the same device; the new kit holds it.
        forget: Forgotten classes, by index; those of earlier requests are added.
        seed: Unlearning seed.
        prior_taken: How much of the imbalance unlearning took out of the classifier's answers.

    Returns:
        The new kit, on the same device. Its proxies are a little blurrier than the old kit's, and
        prompts that were optimised beside the original classifier stay as they are.

    Raises:
        KitError: If the kit has no generator.
        UserError: If there is no such class, or fewer than two prompts would be left.
    """
    gone = all_forgotten(kit, forget)
    taken = kit.info.prior_taken + prior_taken
    info = dataclasses.replace(kit.info, forgotten=gone, prior_taken=taken)
    prompts = kit.prompts_of(info.remaining).images
    targets = kit.decode(prompts)
    assert kit.generator is not None  # as there are prompts
    assert kit.info.generator is not None
    recipe: dict[str, Any] = kit.info.settings.get("training", {})
    recipe = recipe | kit.info.settings.get("callback", {})  # which grew the prompts, where it did
    steps = recipe.get("min_generator_steps") or STEPS
    # of earlier requests, too: the generator of the second must not begin as that of the first did
    streams = [
        stream(name, seed, *kit.info.forgotten) for name in ("next_generator", "next_prompts")
    ]
    with torch.random.fork_rng():
        torch.manual_seed(streams[0])
        generator = type(kit.generator)(**kit.info.generator.arguments).to(prompts.device)
    terms = ProxyTerms(
        len(prompts) // len(info.remaining),
        recipe.get("prompt_batch", PROMPT_BATCH),
        reconstruction_weight=recipe.get("reconstruction_weight", 1.0),
        divergence_weight=recipe.get("divergence_weight", 0.1),
        seed=streams[1],
    )
    optimizer = torch.optim.Adam(generator.train().parameters(), lr=RATE)
    course = schedule_of(optimizer, "cosine", steps)
    with torch.enable_grad():
        for step in range(steps):
            parts = terms.of_generator(generator, prompts, targets, step, 0)
            optimizer.zero_grad()
            torch.stack(list(parts.values())).sum().backward()
            optimizer.step()
            course.step()
    shape = (len(info.remaining), -1, *prompts.shape[1:])
    return Kit(classifier, info, generator, prompts.view(shape).clone())


def all_forgotten(kit: Kit, forget: Sequence[int]) -> tuple[int, ...]:
    """Return all classes that a new kit has forgotten, in order; refuse what cannot be made.

    Arguments and errors are those of `next_kit`.
    """
    classes = range(len(kit.info.class_names))
    wrong = [k for k in forget if k not in classes]
    if wrong or not forget:
        raise UserError(
            f"say which classes to forget, by index from 0 to {classes[-1]}; got {list(forget)}"
        )
    gone = tuple(sorted({*forget, *kit.info.forgotten}))
    left = len(classes) - len(gone)
    if kit.prompts is not None and left * kit.prompts.shape[1] < 2:
        raise UserError(
            "fewer than two prompts would be left, too few to grow a generator on: set"
            " next_kit=false"
        )
    return gone

"""The kit for the next request: without the forgotten classes, and unable to draw them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from geniu_lightning.kit import Kit
from geniu_lightning.optim import schedule_of
from geniu_lightning.seeds import stream
from geniu_lightning.terms import ProxyTerms

STEPS, PROMPT_BATCH, RATE = 1000, 20, 1e-3  # what kits are trained with, where one does not say


def next_kit(kit: Kit, classifier: nn.Module, forget: Sequence[int], seed: int) -> Kit:
    """Return a kit whose prompts and generator are of the retained classes alone.

    The prompts of the forgotten classes are left out, the classifier is the unlearned one, and the
    generator is a fresh one, which learns to draw from the other prompts what the old one draws of
    them. It has seen nothing else, so no latent code and no noise brings the forgotten class back
    that these proxies do not show. The old one had it in its weights, prompts or not.

    Steps, at least, and batch are those that the kit's training recorded.

    Args:
        kit: With a generator, on the device to work on; unchanged afterwards.
        classifier: What came of unlearning, on the same device; the new kit holds it.
        forget: All forgotten classes, those of earlier requests among them.
        seed: Unlearning seed.

    Returns:
        The new kit, on the same device. Its proxies are a little blurrier than the old kit's, and
        prompts that were optimised beside the original classifier stay as they are.

    Raises:
        KitError: If the kit has no generator.
    """
    info = dataclasses.replace(kit.info, forgotten=tuple(forget))
    prompts = kit.prompts_of(info.remaining).images
    targets = kit.decode(prompts)
    assert kit.generator is not None  # as there are prompts
    assert kit.info.generator is not None
    recipe: dict[str, Any] = kit.info.settings.get("training", {})
    steps = recipe.get("min_generator_steps", STEPS)
    with torch.random.fork_rng():
        torch.manual_seed(stream("next_generator", seed))
        generator = type(kit.generator)(**kit.info.generator.arguments).to(prompts.device)
    terms = ProxyTerms(
        len(prompts) // len(info.remaining),
        recipe.get("prompt_batch", PROMPT_BATCH),
        reconstruction_weight=recipe.get("reconstruction_weight", 1.0),
        divergence_weight=recipe.get("divergence_weight", 0.1),
        seed=stream("next_kit", seed),
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

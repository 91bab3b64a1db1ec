"""The combined-loss training once more: one plain loop, no Lightning, nothing shared with ours.

Written from the equations in the docstring of `geniu_lightning.training.losses` and from sections 3
to 5 of our notes on the paper. Slow and obvious: frozen networks are deep copies, learning rates
are closed formulas, exemplars are found image by image. Only the random streams are ours, because
equal draws are what makes two trainings comparable.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geniu_lightning.seeds import generator, stream


@dataclass
class Settings:
    """The numbers of a training; classifier and prompts go by Adam, the generator by SGD."""

    num_classes: int
    per_class: int
    batch_size: int
    epochs: int
    exemplar_epochs: int
    every_n_steps: int
    min_generator_steps: int
    prompt_batch: int
    prompt_weight: float
    reconstruction_weight: float
    divergence_weight: float
    classifier_rate: float
    generator_rate: float
    prompt_rate: float
    seed: int
    after: bool = False
    gradient_bound: float | None = None


@dataclass
class Trained:
    """What the loop leaves."""

    classifier: nn.Module
    vae: nn.Module
    prompts: Tensor
    exemplars: list[list[int]]


def train(
    classifier: nn.Module, vae: nn.Module, images: Tensor, labels: Tensor, mean: float, std: float,
    s: Settings,
) -> Trained:  # fmt: skip
    """Train copies of both networks on images in [0, 1]."""
    classifier, vae = copy.deepcopy(classifier).train(), copy.deepcopy(vae).train()
    shape = (s.num_classes * s.per_class, *images.shape[1:])
    prompts = torch.randn(shape, generator=generator("prompts", s.seed)).requires_grad_()
    prompt_classes = torch.tensor([k for k in range(s.num_classes) for _ in range(s.per_class)])

    batches = math.ceil(len(images) / s.batch_size)
    if s.after:
        first, last = s.epochs * batches, (s.epochs + 1) * batches
    else:
        first, last = batches, s.epochs * batches
    among = last - first
    vae_steps = max(s.min_generator_steps, among // s.every_n_steps)
    prompt_steps = max(1, among // s.every_n_steps, min(among, vae_steps // s.every_n_steps))
    vae_calendar = calendar(vae_steps, first, among)
    prompt_calendar = calendar(prompt_steps, first, among)

    adam_f = torch.optim.Adam(classifier.parameters(), lr=s.classifier_rate)
    sgd_g = torch.optim.SGD(vae.parameters(), lr=s.generator_rate)
    adam_z = torch.optim.Adam([prompts], lr=s.prompt_rate)
    done_g = done_z = 0
    exemplars: list[list[int]] = [[] for _ in range(s.num_classes)]

    for step in range(last):
        epoch, position = divmod(step, batches)
        if position == 0:
            order = torch.randperm(len(images), generator=generator("order", s.seed, epoch))
            uncertainty: dict[int, float] = {}
        torch.manual_seed(stream("step", s.seed, step, 0))

        loss = None
        if epoch < s.epochs:
            rows = torch.tensor_split(order, batches)[position]
            logits = classifier((images[rows] - mean) / std)
            log_p = logits.log_softmax(dim=1)
            loss = -log_p[torch.arange(len(rows)), labels[rows]].mean()
            for row, image_log_p in zip(rows.tolist(), log_p.detach(), strict=True):
                uncertainty[row] = -float((image_log_p.exp() * image_log_p).sum())

        # one loss, so the prompts see the weights from before this step's step; the running
        # statistics hold this step's images already
        z_gradient = None
        if step in prompt_calendar:
            frozen = copy.deepcopy(classifier).eval()
            drawn = draw(len(prompts), s, step, 0)
            log_p = frozen(prompts[drawn]).log_softmax(dim=1)
            z_loss = -log_p[torch.arange(len(drawn)), prompt_classes[drawn]].mean()
            (z_gradient,) = torch.autograd.grad(s.prompt_weight * z_loss, [prompts])
        # likewise the generator's first update of a step reads the prompts before they move
        before = prompts.detach().clone()

        if loss is not None:
            adam_f.param_groups[0]["lr"] = one_cycle(s.classifier_rate, step, s.epochs * batches)
            adam_f.zero_grad()
            loss.backward()
            if s.gradient_bound is not None:
                gradients = [p.grad for p in classifier.parameters()]
                norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
                for gradient in gradients:
                    gradient.mul_(min(1.0, s.gradient_bound / (norm + 1e-6)))
            adam_f.step()
        if z_gradient is not None:
            adam_z.param_groups[0]["lr"] = cosine(s.prompt_rate, done_z, prompt_steps)
            prompts.grad = z_gradient
            adam_z.step()
            done_z += 1

        for repetition in range(vae_calendar.count(step)):
            drawn = draw(len(prompts), s, step, repetition)
            z = (before if repetition == 0 else prompts.detach())[drawn]
            chosen = [exemplars[n // s.per_class][n % s.per_class] for n in drawn.tolist()]
            mu, log_variance = vae.encode(z)
            noise = torch.randn(mu.shape, generator=generator("latents", s.seed, step, repetition))
            made = vae.decode(mu + log_variance.exp().sqrt() * noise)
            error = ((made - images[chosen]) ** 2).flatten(1).sum(dim=1).mean()
            kl = (0.5 * (mu**2 + log_variance.exp() - 1 - log_variance)).sum(dim=1).mean()
            sgd_g.param_groups[0]["lr"] = cosine(s.generator_rate, done_g, vae_steps)
            sgd_g.zero_grad()
            (s.reconstruction_weight * error + s.divergence_weight * kl).backward()
            sgd_g.step()
            done_g += 1

        if position == batches - 1 and epoch < s.exemplar_epochs:
            exemplars = choose(uncertainty, labels, exemplars, s)
    assert (done_g, done_z) == (vae_steps, prompt_steps)
    return Trained(classifier, vae, prompts.detach(), exemplars)


def calendar(updates: int, first: int, steps: int) -> list[int]:
    """Return the step of each update: the n-th falls where n of them are due for the first time."""
    return [first + math.ceil(n * steps / updates) - 1 for n in range(1, updates + 1)]


def draw(prompts: int, s: Settings, step: int, repetition: int) -> Tensor:
    """Return which prompts a step takes."""
    order = torch.randperm(prompts, generator=generator("draw", s.seed, step, repetition))
    return order[: s.prompt_batch]


def choose(
    uncertainty: dict[int, float], labels: Tensor, before: list[list[int]], s: Settings
) -> list[list[int]]:
    """Return the most uncertain images of each class; who stood somewhere still stands there."""
    now = []
    for k in range(s.num_classes):
        members = [row for row in uncertainty if int(labels[row]) == k]
        best = sorted(members, key=lambda row: (-uncertainty[row], row))[: s.per_class]
        stay = {place: row for place, row in enumerate(before[k]) if row in best}
        new = [row for row in best if row not in stay.values()]
        now.append([stay[p] if p in stay else new.pop(0) for p in range(s.per_class)])
    return now


def cosine(rate: float, done: int, steps: int) -> float:
    """Return the rate of the next update, from `rate` down to 0."""
    return rate * (1 + math.cos(math.pi * done / steps)) / 2


def one_cycle(rate: float, done: int, steps: int) -> float:
    """Return the rate of the next update: up from rate/25 over 30 %, down to rate/250000."""
    summit = 0.3 * steps - 1
    if done <= summit:
        low, high, share = rate / 25, rate, done / summit
        return high - (high - low) * (1 + math.cos(math.pi * share)) / 2
    share = (done - summit) / (steps - 1 - summit)
    low = rate / 250_000
    return low + (rate - low) * (1 + math.cos(math.pi * share)) / 2

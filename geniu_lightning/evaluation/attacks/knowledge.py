"""Knowledge of a forgotten class that the stored proxies carry."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.attacks.probing import NO_FORGOTTEN_PROXIES, NO_PROXIES
from geniu_lightning.evaluation.context import Context, Proxies, outputs_of
from geniu_lightning.evaluation.metric import Absent, Metric, MetricInfo, Values
from geniu_lightning.evaluation.metrics.accuracy import confusion, mean_over, per_class
from geniu_lightning.settings.checked import Positive, PositiveInt, checked


@checked
@dataclass(frozen=True)
class Knowledge(Metric):
    """Accuracy of a new network that learns a class from the stored proxies alone.

    An untrained network is trained on the proxies (Adam, cross-entropy, classes equally often) and
    tested on real test images.

    - `forget` (A_f), `retain` (A_r): means of classes' accuracies; A_f is about 1/K for proxies
      without information on the class. A_r shows that the training worked.
    - `net`: A_f minus the share of retained images that are taken for the same classes.
    - `drawn`: share of the proxies of forgotten classes that the original classifies as such.

    Source:
        Ravuri and Vinyals, Classification Accuracy Score for Conditional Generative Models, arXiv
        1905.10887: train on generated, test on real images.
    """

    needs = frozenset({"proxies", "fresh", "original"})
    subject = "proxies"
    infos: ClassVar[dict[str, MetricInfo]] = {
        "forget": MetricInfo("lower", 0.0),
        "net": MetricInfo("lower", 0.0),
        "retain": MetricInfo("higher", 1.0),
        "drawn": MetricInfo("lower", 0.0),
    }

    steps: PositiveInt = 200
    rate: Positive = 1e-3  # Adam's
    batch: PositiveInt = 64  # proxies a step, drawn with replacement

    def images_processed(self, context: Context) -> int:
        """Return the images of the training, each as three."""
        able = context.proxies is not None and context.fresh is not None
        return 3 * self.steps * self.batch if able else 0

    def __call__(self, context: Context) -> Values:
        """Measure the proxies."""
        if context.proxies is None:
            return dict.fromkeys(self.infos, NO_PROXIES)
        if not len(context.proxies.split.positions_of(context.forget)):
            # A_f would be 0 whatever the others show
            return dict.fromkeys(self.infos, NO_FORGOTTEN_PROXIES)
        own = outputs_of(context.original, context.proxies.split)
        drawn = mean_over(per_class(own, len(context.class_names)), context.forget)
        return {**self._learned(context, context.proxies), "drawn": drawn}

    def _learned(self, context: Context, proxies: Proxies) -> Values:
        names = ("forget", "net", "retain")
        if context.fresh is None:
            return dict.fromkeys(names, Absent("there is no way to make an untrained network"))
        if "test" not in context.splits:
            return dict.fromkeys(names, Absent("the run has no test images"))
        if len(proxies.labels.unique()) < 2:
            return dict.fromkeys(names, Absent("proxies of at least two classes are needed"))
        draws = context.generator("knowledge")
        devices = [context.device] if context.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # initialisation and dropout draw from global ones
            torch.manual_seed(draws.initial_seed())
            network = context.fresh(draws.initial_seed())
            self.fit(network, proxies, draws)
        try:
            outputs = outputs_of(network, context.splits["test"])
        except UserError:
            return dict.fromkeys(names, Absent("training on the proxies diverged"))
        counts = confusion(outputs, len(context.class_names))
        each = counts.diagonal() / counts.sum(dim=1)
        others = counts[list(context.retained)].sum(dim=0) / counts[list(context.retained)].sum()
        return {
            "forget": mean_over(each, context.forget),
            "net": mean_over(each - others, context.forget),
            "retain": mean_over(each, context.retained),
        }

    def fit(self, network: nn.Module, proxies: Proxies, generator: torch.Generator) -> None:
        """Train a network on proxies, classes equally often, and leave it in evaluation mode."""
        labels = proxies.labels.cpu()
        chances = 1 / torch.bincount(labels)[labels]
        network.train().requires_grad_(True)
        optimizer = torch.optim.Adam(network.parameters(), self.rate)
        with torch.enable_grad():
            for _ in range(self.steps):
                rows = torch.multinomial(chances, self.batch, replacement=True, generator=generator)
                target = labels[rows].to(proxies.images.device)
                loss = F.cross_entropy(network(proxies.images[rows.to(target.device)]), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        network.eval().requires_grad_(False)

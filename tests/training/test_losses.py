"""The combined loss: each term's value by another route, and what it moves."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.latent import Decoder, Encoder
from geniu_lightning.models.vae import VAE
from geniu_lightning.training.losses import (
    CodeBatch,
    CombinedLoss,
    ImageBatch,
    PromptBatch,
    ProxyBatch,
    combined_loss,
    divergence,
    reconstruction,
)
from tests.training.small_training import IMAGES, LABELS, SPEC, networks

DRAWN = torch.tensor([4, 1, 3])


class Everything(nn.Module):
    """Classifier, generator and prompts, and the combined loss of a batch and a draw."""

    def __init__(self) -> None:
        super().__init__()
        networks_: tuple[AllCNN, VAE] = networks()
        self.classifier, self.generator = networks_
        rng = torch.Generator().manual_seed(5)
        self.prompts = nn.Parameter(torch.randn(6, 1, 16, 16, generator=rng))

    def loss(self, *terms: str, weight: float = 1.0, **weights: float) -> CombinedLoss:
        inputs: dict[str, Any] = {}
        if "images" in terms:
            logits = self.classifier(SPEC.normalise(IMAGES[::3]))
            inputs["images"] = ImageBatch(logits, LABELS[::3], weight)
        if "prompts" in terms:
            inputs["prompts"] = PromptBatch(self.classifier, self.prompts[DRAWN], DRAWN // 2)
        if "proxies" in terms:
            noise = torch.Generator().manual_seed(9)
            # not detached, which is the loss's own affair
            inputs["proxies"] = ProxyBatch(
                self.generator, self.prompts[DRAWN], IMAGES[[20, 5, 14]], noise
            )
        return combined_loss(**inputs, **weights)

    def moved_by(self, term: Tensor) -> set[str]:
        self.zero_grad(set_to_none=True)
        term.backward()
        return {name for name, p in self.named_parameters() if p.grad is not None}


def test_each_term_moves_its_own_part_and_nothing_else() -> None:
    all_of = Everything()
    names = [name for name, _ in all_of.named_parameters()]
    generator = {name for name in names if name.startswith("generator.")}
    encoder = {n for n in generator if n.split(".")[1] in ("encoder", "mean", "log_variance")}
    for term, inputs, moved in (
        ("classifier", "images", {n for n in names if n.startswith("classifier.")}),
        ("prompts", "prompts", {"prompts"}),
        ("reconstruction", "proxies", generator),
        ("divergence", "proxies", encoder),
    ):
        # all terms are computed, one is followed
        loss = all_of.loss("images", "prompts", "proxies")
        assert all_of.moved_by(loss.terms[term]) == moved
        assert term in all_of.loss(inputs).terms
    assert list(loss.terms) == ["classifier", "prompts", "reconstruction", "divergence"]
    assert all_of.moved_by(all_of.loss("images", "prompts", "proxies").total) == set(names)


def test_terms_are_those_of_the_equations_weighted_and_summed() -> None:
    all_of = Everything().eval()
    one = all_of.loss("images", "prompts", "proxies")
    with torch.no_grad():
        odds = all_of.classifier(SPEC.normalise(IMAGES[::3])).double().softmax(dim=1)
        classifier = -odds[torch.arange(8), LABELS[::3]].log().mean()
        odds = all_of.classifier(all_of.prompts[DRAWN]).double().softmax(dim=1)
        prompts = -odds[torch.arange(3), torch.tensor([2, 0, 1])].log().mean()
        mean, log_variance = all_of.generator.encode(all_of.prompts[DRAWN])
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(9))
        made = all_of.generator.decode(mean + log_variance.exp().sqrt() * noise)
    error = np.mean([float(((a - b) ** 2).sum()) for a, b in zip(made, IMAGES[[20, 5, 14]])])  # noqa: B905
    normal = torch.distributions.Normal(mean.double(), (log_variance.double() / 2).exp())
    standard = torch.distributions.Normal(torch.zeros_like(mean).double(), 1.0)
    kl = torch.distributions.kl_divergence(normal, standard).sum(dim=1).mean()
    expected = [float(classifier), float(prompts), float(error), float(kl)]
    found = [float(term.detach()) for term in one.terms.values()]
    assert found == pytest.approx(expected, rel=1e-4)
    weights = {"prompt_weight": 3.0, "reconstruction_weight": 5.0, "divergence_weight": 7.0}
    many = all_of.loss("images", "prompts", "proxies", weight=0.8, **weights)
    weighted = np.array(found) * [0.8, 3, 5, 7]
    assert [float(t.detach()) for t in many.terms.values()] == pytest.approx(weighted, rel=1e-5)
    assert float(many.total.detach()) == pytest.approx(weighted.sum(), rel=1e-5)


def test_losses_are_computed_in_32_bits_whatever_the_networks_give() -> None:
    made = torch.full((1, 1, 64, 64), 1.0, dtype=torch.bfloat16)
    assert reconstruction(made, torch.zeros(1, 1, 64, 64)).dtype == torch.float32
    assert divergence(made[0, 0], made[0, 0]).dtype == torch.float32
    assert float(divergence(torch.zeros(2, 5), torch.zeros(2, 5))) == 0


def test_the_terms_of_codes_are_those_of_the_equations() -> None:
    torch.manual_seed(0)
    encoder, decoder = Encoder(1, 16, latent=4, width=8), Decoder(1, 16, latent=4, width=8)
    images = IMAGES[::5]

    def loss(early: Any = None, **weights: float) -> CombinedLoss:
        noise = torch.Generator().manual_seed(9)
        return combined_loss(codes=CodeBatch(encoder, decoder, images, noise, early), **weights)

    def halved(x: Tensor) -> Tensor:
        return x[:, :, ::2] / 2

    with torch.no_grad():
        mean, log_variance = encoder(images)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(9))
        made = decoder(mean + log_variance.exp().sqrt() * noise)
        normal = torch.distributions.Normal(mean, log_variance.exp().sqrt())
        kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
        error = (made - images).square().flatten(1).sum(dim=1).mean()
        early = (halved(made) - halved(images)).square().flatten(1).sum(dim=1).mean()
    weights = {"reconstruction_weight": 2.0, "divergence_weight": 3.0, "feature_weight": 5.0}
    found = loss(halved, **weights)
    expected = [2 * float(error), 3 * float(kl.sum(dim=1).mean()), 5 * float(early)]
    assert [float(t.detach()) for t in found.terms.values()] == pytest.approx(expected, rel=1e-4)
    assert float(found.total.detach()) == pytest.approx(sum(expected), rel=1e-4)
    assert [*loss().terms] == ["codes/pixels", "codes/prior"]
    loss().terms["codes/prior"].backward()
    assert all(p.grad is None for p in decoder.parameters())
    assert all(p.grad is not None for p in encoder.parameters())

"""The combined loss of GENIU: every term that training minimises, in one function."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniu_lightning.models.frozen import frozen
from geniu_lightning.models.latent import drawn
from geniu_lightning.models.vae import Generated


class ImageBatch(NamedTuple):
    """Real images: the classifier's logits f(x) `(N, K)` and the labels y `(N,)`.

    `weight` is that of this process's share of the batch in the mean over all processes.
    """

    logits: Tensor
    labels: Tensor
    weight: float = 1.0


class PromptBatch(NamedTuple):
    """Prompts z `(N, C, H, W)`, their classes k `(N,)`, and the classifier f to recognise them."""

    classifier: nn.Module
    prompts: Tensor
    labels: Tensor


class ProxyBatch(NamedTuple):
    """Generator g, prompts z `(N, C, H, W)`, and the exemplars x* in [0, 1] to make of them.

    `noise` is the random stream that latent codes are drawn from.
    """

    generator: nn.Module
    prompts: Tensor
    exemplars: Tensor
    noise: torch.Generator


class CodeBatch(NamedTuple):
    """Encoder e and decoder d of latent codes, and images x in [0, 1] to learn them on.

    `early` is φ, early activations of an image; `noise` the random stream of the codes.
    """

    encoder: nn.Module
    decoder: nn.Module
    images: Tensor
    noise: torch.Generator
    early: Callable[[Tensor], Tensor] | None = None


class CombinedLoss(NamedTuple):
    """The sum that is minimised, a scalar, and its weighted terms by name."""

    total: Tensor
    terms: dict[str, Tensor]


def combined_loss(
    *,
    images: ImageBatch | None = None,
    prompts: PromptBatch | None = None,
    proxies: ProxyBatch | None = None,
    codes: CodeBatch | None = None,
    prompt_weight: float = 1.0,
    reconstruction_weight: float = 1.0,
    divergence_weight: float = 1.0,
    feature_weight: float = 0.0,
) -> CombinedLoss:
    """Return the combined loss of classifier f, noise prompts z, proxy generator g and codes c.

        L = CE(f(x), y) + w_p CE(f(z), k) + w_r ‖g(z) − x*‖² + w_d KL(q(z) ‖ N(0, I))
          + w_r ‖d(c) − x‖² + w_d KL(e(x) ‖ N(0, I)) + w_φ ‖φ(d(c)) − φ(x)‖²,  c ~ e(x)

    | term           | moves       | here                                | source             |
    |----------------|-------------|-------------------------------------|--------------------|
    | classifier     | f alone     | mean over the batch, nats           | cross-entropy      |
    | prompts        | z alone     | f frozen, in evaluation mode        | Sec. 4.2, our form |
    | reconstruction | g alone     | z detached, summed over pixels      | Eq. 3              |
    | divergence     | g's encoder | z detached, summed over latents     | Eq. 4              |
    | codes/pixels   | e and d     | summed over pixels                  | Eq. 3, of images   |
    | codes/prior    | e           | summed over latents                 | Eq. 4, of images   |
    | codes/features | e and d     | f frozen, summed over activations   | ours               |

    A term whose input is `None` is left out; one must be given. The paper's weights are not
    recovered.

    Source:
        GENIU, arXiv 2406.07885, sections 4.2 to 4.4.
    """
    terms: dict[str, Tensor] = {}
    if images is not None:
        terms["classifier"] = F.cross_entropy(images.logits, images.labels) * images.weight
    if prompts is not None:
        # in evaluation mode: prompts would spoil the running statistics of batch normalisation
        with frozen(prompts.classifier):
            logits = prompts.classifier(prompts.prompts).float()
            terms["prompts"] = prompt_weight * F.cross_entropy(logits, prompts.labels)
    if proxies is not None:
        made: Generated = proxies.generator(proxies.prompts.detach(), generator=proxies.noise)
        terms["reconstruction"] = reconstruction_weight * reconstruction(
            made.images, proxies.exemplars
        )
        terms["divergence"] = divergence_weight * divergence(made.mean, made.log_variance)
    if codes is not None:
        found = codes.encoder(codes.images)
        redrawn = codes.decoder(drawn(found, codes.noise))
        terms["codes/pixels"] = reconstruction_weight * reconstruction(redrawn, codes.images)
        terms["codes/prior"] = divergence_weight * divergence(*found)
        if codes.early is not None:
            target = codes.early(codes.images).detach()
            terms["codes/features"] = feature_weight * reconstruction(codes.early(redrawn), target)
    return CombinedLoss(torch.stack(list(terms.values())).sum(), terms)


def reconstruction(images: Tensor, target: Tensor) -> Tensor:
    """Return the squared error summed over pixels, averaged over images `(N, C, H, W)`.

    Summed, because an average over pixels lets the divergence win and every proxy become the same
    image. Source: GENIU, Eq. 3; the square is our reading.
    """
    return (images.float() - target.float()).square().sum(dim=(1, 2, 3)).mean()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) ‖ N(0, I)) of codes `(N, latent)`, in nats.

    Summed over latents, averaged over codes. Source: GENIU, Eq. 4; the standard normal is our
    reading.
    """
    mean, log_variance = mean.float(), log_variance.float()
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()

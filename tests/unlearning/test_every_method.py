"""The contract of every method: found by its configuration, so the next one is tested for free."""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.errors import AccessError
from geniu_lightning.kit.archive_info import ArchiveInfo
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.info import NetworkSpec
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.settings.configs import CONF, method_settings
from geniu_lightning.unlearning import warps
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.batches import UnlearnBatch
from geniu_lightning.unlearning.gkt import Gkt
from geniu_lightning.unlearning.ispf import Ispf
from geniu_lightning.unlearning.networks import Teacher, fresh_classifier
from geniu_lightning.unlearning.sources import Access
from tests.kit.small_kits import with_distribution
from tests.unlearning.every_method import CONFIGS, built, digest
from tests.unlearning.helpers import GONE, LOSSLESS, Lab, archived, trainer_of

SOURCES = ("data", "proxies", "distribution", "archive")

STEPS, RATE = 9, 5e-4
EVERYTHING = Access.FORGET | Access.RETAIN
# of those that a configuration has; its rates are tuned for larger networks and more steps
INSTEAD = {
    **{"images_per_class": 8, "noise_images": 8, "batch_size": 18, "seek_steps": 20},
    "warm_up_steps": 2,
    **{"rounds": 2, "max_rounds": 1, "max_gradient_norm": 1.0, "repair_rate": RATE},
    "optimizer": partial(torch.optim.Adam, lr=RATE),
}
# methods whose weights do not depend on the unlearning seed: they draw nothing
DRAWS_NOTHING = {
    *("geniu", "logit_adjust", "logit_mask", "masked_distill", "nearest_mean", "none"),
    *("retrain", "ssd", "unrolling_sgd", "zero_head"),
}
# each of these has a test of its own of what it does instead
FORGETS_LITTLE = {"emmn", "none", "scrub", "synthetic_embeddings", "unrolling_sgd", "jit"}
DAMAGES = {
    *(
        "coreset",
        "gkt",
        "ispf",
        "regrow",
        "rebuild",
        "retrain",
        "random_init",
    ),  # fresh, and few steps
    *("gradient_ascent", "jit", "emmn", "ssd"),  # no term preserves the retained classes
}

every_method = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@pytest.fixture(scope="module", autouse=True)
def _narrow_generators() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warps, "PROBES", 64)
        for kind in (Gkt, Ispf):
            patch.setattr(kind, "widths", (8, 8, 8))
        yield


def small(path: Path, forget: tuple[int, ...], most: int, **more: Any) -> Unlearner:
    """Build a method as its configuration says, but for rates, and numbers of images."""
    names = OmegaConf.load(path)
    instead = {name: value for name, value in INSTEAD.items() if name in names}
    return built(path, forget, most, **instead | more)


def tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def teachers_of(method: Unlearner) -> dict[str, nn.Module]:
    return {k: v.network for k, v in vars(method).items() if isinstance(v, Teacher)}


@every_method
def test_the_contract(path: Path, kit: Kit, colour_kit: Kit, tmp_path: Path) -> None:
    before = digest(kit)
    assert path.read_text().startswith("# ")
    built(path, (0,))
    with pytest.raises(InstantiationException, match="nonsense"):
        built(path, (0,), nonsense=1)
    result = runs_as_declared(path, Lab(kit))
    repeats(path, Lab(kit), result)
    saves_and_loads(result, kit, tmp_path)
    assert digest(kit) == before
    follows_the_kits_sizes(path, Lab(copy.deepcopy(colour_kit)))
    stays_finite_in_bf16(path, Lab(kit))


def runs_as_declared(path: Path, lab: Lab) -> nn.Module:
    kit = lab.kit
    method = small(path, GONE, STEPS)
    modes: list[set[bool]] = []
    # of steps with the same losses: names, first batch, classifier before and after
    phases: list[list[Any]] = []
    teachers: dict[str, dict[str, Tensor]] = {}
    prepare, loss_terms, end = method.prepare, method.loss_terms, method.on_train_end

    def noted_prepare(*given: Any) -> None:
        prepare(*given)
        begins_as_the_original_or_wholly_fresh(method.classifier, kit.classifier)
        for name, network in teachers_of(method).items():
            teachers[name] = {k: t.clone() for k, t in network.state_dict().items()}

    def noted_terms(batch: UnlearnBatch) -> dict[str, Tensor]:
        modes.append({layer.training for layer in method.classifier.modules()})
        now = copy.deepcopy(method.classifier)
        terms = loss_terms(batch)
        if not phases or phases[-1][0] != terms.keys():
            if phases:
                phases[-1][3] = now
            phases.append([terms.keys(), batch, now, None])
            losses_are_sound(method, batch, terms, kit)
        return terms

    def noted_end() -> None:
        phases[-1][3] = copy.deepcopy(method.classifier)
        end()

    method.prepare, method.loss_terms, method.on_train_end = noted_prepare, noted_terms, noted_end
    begin = time.perf_counter()
    result = method.run(kit, lab.sources(EVERYTHING, GONE), trainer_of)
    assert 0 < method.clock.seconds <= time.perf_counter() - begin
    method.loss_terms = loss_terms

    opened = Access.NONE
    for split, *_ in lab.opened:
        opened |= Access[split.upper()]
    assert opened == method.access  # no more, and what it declares it needs
    read = set(lab.read)
    assert Access.FORGET in method.access or not read & set(GONE)
    assert Access.RETAIN in method.access or not read - set(GONE)
    if method.access:
        with pytest.raises(AccessError, match="declares that it reads no training data"):
            small(path, GONE, 1).run(kit, lab.sources(Access.NONE, GONE), trainer_of)

    assert len(modes) == method.steps
    assert all(mode == {method.batch_norm == "train"} for mode in modes)
    for names, batch, *networks in phases:  # every phase lowers its own loss
        losses = []
        for network in networks:
            method.classifier = network
            torch.manual_seed(0)  # the same draws for both
            losses.append(sum(float(term.detach()) for term in loss_terms(batch).values()))
        assert losses[1] < losses[0], names
    method.classifier = result
    parts = [*method.named_parameters(), *method.named_buffers()]
    assert {name.split(".")[0] for name, _ in parts} == {"classifier"}
    held = {t.data_ptr() for network in (kit.classifier, result) for t in tensors(network)}
    assert teachers_of(method).keys() == teachers.keys()
    for name, network in teachers_of(method).items():  # copies that no step changes
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, teachers[name][key]), (name, key)
            assert tensor.data_ptr() not in held, (name, key)
        assert not any(layer.training for layer in network.modules())
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())

    assert not {t.data_ptr() for t in tensors(kit.classifier)} & {
        t.data_ptr() for t in tensors(result)
    }
    assert all(t.isfinite().all() and not t.requires_grad for t in tensors(result))
    assert not any(t.is_inference() for t in tensors(result))  # the next training may use them
    assert not any(layer.training for layer in result.modules())
    assert torch.is_grad_enabled()
    pairs = list(zip(tensors(result), tensors(kit.classifier), strict=True))
    if method.steps:
        assert any(not torch.equal(a, b) for a, b in pairs)
    if method.batch_norm != "train":
        buffers = dict(result.named_buffers())
        assert all(torch.equal(t, buffers[n]) for n, t in kit.classifier.named_buffers())
    forget_before, _ = lab.own_probability(kit.classifier)
    forget, _ = lab.own_probability(result)
    assert forget_before > 0.9
    if path.stem not in FORGETS_LITTLE:
        assert forget < forget_before - 0.005
    if path.stem not in DAMAGES:
        retained = ~torch.isin(lab.labels, torch.tensor(GONE))
        right = result(lab.images).argmax(dim=1) == lab.labels
        assert right[retained].float().mean() > 0.85
    return result


def begins_as_the_original_or_wholly_fresh(classifier: nn.Module, original: nn.Module) -> None:
    now, before = classifier.state_dict(), original.state_dict()
    assert now.keys() == before.keys()
    # a head may have another width
    same = {torch.equal(t, before[n]) for n, t in now.items() if t.shape == before[n].shape}
    assert len(same) == 1, "some tensors are the original's and others are not"


def losses_are_sound(
    method: Unlearner, batch: UnlearnBatch, terms: dict[str, Tensor], kit: Kit
) -> None:
    # every forget class, not the last alone
    assert torch.equal(batch.forget, torch.isin(batch.labels, torch.tensor(method.forget)))
    for name, term in terms.items():
        assert term.shape == (), name
        assert term.isfinite(), name
        assert term.requires_grad, name
    parameters = [p for p in method.classifier.parameters() if p.requires_grad]
    total = torch.stack(list(terms.values())).sum()
    # a parameter without a gradient is an error under several processes
    gradients = torch.autograd.grad(total, parameters, retain_graph=True)
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients)
    assert all(p.grad is None for p in kit.classifier.parameters())


def repeats(path: Path, lab: Lab, result: nn.Module) -> None:
    torch.manual_seed(99)  # what ran before must not matter
    again, other = (lab.run(small(path, GONE, STEPS, seed=seed)).state_dict() for seed in (5, 6))
    first = result.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())
    same = all(torch.equal(tensor, other[name]) for name, tensor in first.items())
    assert same == (path.stem in DRAWS_NOTHING)


def saves_and_loads(result: nn.Module, kit: Kit, folder: Path) -> None:
    info = kit.info.of_weights(forgotten=GONE)
    Kit(result, info).save(folder / "unlearned.safetensors")
    loaded = Kit.load(folder / "unlearned.safetensors")
    assert (loaded.generator, loaded.prompts, loaded.info.forgotten) == (None, None, GONE)
    images = Lab(kit).images
    logits = result(images)
    assert logits.shape == (len(images), len(kit.info.class_names))
    assert torch.equal(loaded.classifier(images), logits)


@pytest.fixture(scope="module")
def colour_kit(fitted_kit: Kit) -> Kit:
    """Return an untrained kit of 7 classes of 28x28 colour images."""
    sizes = {"channels": 3, "num_classes": 7, "width": 2}, {"channels": 3, "image_size": 28}
    classifier = NetworkSpec("geniu_lightning.models.allcnn.AllCNN", sizes[0])
    maker = NetworkSpec("geniu_lightning.models.vae.VAE", sizes[1] | {"latent": 4})
    info = dataclasses.replace(
        fitted_kit.info,
        classifier=classifier,
        generator=maker,
        class_names=tuple("abcdefg"),
        class_counts=(4,) * 7,
        spec=ImageSpec.of(28, 3, (0.1, 0.5, 0.7), (0.2, 0.3, 0.9)),
        archive=ArchiveInfo(LOSSLESS, (4,) * 7),
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        prompts = torch.randn(7, 2, 3, 28, 28)
        archive = {k: archived(torch.rand(4, 3, 28, 28)) for k in range(7)}
        networks = classifier.build_classifier().eval(), maker.build().eval()
        kit = Kit(networks[0], info, networks[1], prompts, archive)
    first = state_digest(fresh_classifier(kit, info.seed))
    kit.info = dataclasses.replace(info, settings=info.settings | {"initial_sha256": first})
    return kit


def follows_the_kits_sizes(path: Path, lab: Lab) -> None:
    lab.labels = torch.arange(7).repeat(4)
    pixels = torch.rand(28, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    lab.images = lab.kit.info.spec.normalise(pixels)
    # nothing that an untrained network is shown would pass a gate
    open_gate = {"threshold": 0.9} if "threshold" in OmegaConf.load(path) else {}
    method = small(path, (3, 6), most=1, **open_gate)
    loss_terms = method.loss_terms

    def noted(batch: UnlearnBatch) -> dict[str, Tensor]:
        # one method has features in place of images
        assert batch.images.dim() == 2 or batch.images.shape[1:] == (3, 28, 28)
        return loss_terms(batch)

    method.loss_terms = noted
    logits = lab.run(method)(lab.images)
    assert logits.shape == (28, 7)
    assert logits.isfinite().all()


def stays_finite_in_bf16(path: Path, lab: Lab) -> None:
    result = lab.run(small(path, GONE, 1), partial(trainer_of, precision="bf16-mixed"))
    for tensor in result.state_dict().values():
        assert tensor.isfinite().all()
        assert tensor.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("name", ["geniu", "unsir", "ssd"])
def test_a_kit_gives_whatever_it_holds(name: str, lab: Lab) -> None:
    """GENIU's own batches, those that methods share, and a single pass over a set."""
    lab.kit = with_distribution(lab.kit)
    paths = {path.stem: path for path in CONFIGS}
    made = {}
    for source in SOURCES:
        method = small(paths[name], GONE, 2, source=source)
        made[source] = state_digest(lab.run(method))
        assert (lab.opened != []) == (source == "data")
        lab.opened.clear()
    assert len({*made.values()}) == len(SOURCES)


@pytest.mark.slow
@every_method
@pytest.mark.parametrize("forget", [(0,), (2,), (1, 3)], ids=str)
def test_every_forget_set_and_source(path: Path, forget: tuple[int, ...], lab: Lab) -> None:
    lab.kit = with_distribution(lab.kit)
    for source in SOURCES if "source" in method_settings(path.stem) else (None,):
        more = {} if source is None or path.stem == "rebuild" else {"source": source}
        method = small(path, forget, 3, **more)
        before = digest(lab.kit)
        result = lab.run(method)
        assert digest(lab.kit) == before
        assert all(t.isfinite().all() for t in tensors(result))
        assert source in ("data", None) or method.access is Access.NONE


def test_every_search_range_is_of_a_setting_of_its_method() -> None:
    files = sorted((CONF / "search").glob("*.yaml"))
    assert len(files) > 20
    for path in files:
        settings = method_settings(path.stem)
        for name, values in OmegaConf.load(path).items():
            usual = OmegaConf.select(OmegaConf.create(settings), str(name))
            assert usual is not None, (path.stem, name)
            assert OmegaConf.is_list(values) or 0 < values.low < values.high, (path.stem, name)
            if not OmegaConf.is_list(values) and isinstance(usual, float):
                assert math.isfinite(usual)

"""What every method does on the kit of the tests, at a rate that shows in a few steps."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import NetworkSpec, state_digest
from geniu_lightning.unlearning import base, gkt, ispf
from geniu_lightning.unlearning.base import Clock, Unlearner
from geniu_lightning.unlearning.finetune import FineTune
from geniu_lightning.unlearning.networks import Teacher, fresh_classifier
from geniu_lightning.unlearning.sources import Access, RepeatBatch, UnlearnBatch, marked
from tests.unlearning.every_method import CONFIGS, built

TrainerOf = Callable[[int], Trainer]
GONE = (1, 3)
STEPS, RATE = 15, 5e-4
# of those that a configuration names; its rates are tuned for larger networks and more steps
INSTEAD = {
    **{"images_per_class": 8, "noise_images": 8, "batch_size": 18, "seek_steps": 20},
    **{"rounds": 2, "max_rounds": 1, "max_gradient_norm": 1.0, "repair_rate": RATE},
    "optimizer": partial(torch.optim.Adam, lr=RATE),
}
# each of these has a test of its own of what it does instead
FORGETS_LITTLE = {
    "emmn": "so few steps on noise hardly reach images",
    "none": "it is the original",
    "scrub": "rounding says whether its first step away is to a surer answer",
    "synthetic_embeddings": "its head hardly moves in so few steps",
    "unrolling_sgd": "a first order in the rate of the kit's recipe is little",
}
KEEPS_LITTLE = {
    **dict.fromkeys(
        ("coreset", "gkt", "ispf", "regrow", "retrain"), "it learns anew, in more steps"
    ),
    **dict.fromkeys(("gradient_ascent", "jit"), "nothing holds the retained classes"),
    "emmn": "the noise that it trains on spoils the small network",
    "random_init": "it knows nothing",
    "ssd": "at its alpha it dampens what the small network needs for every class",
}

by_stem = {"ids": [path.stem for path in CONFIGS]}
every_method = pytest.mark.parametrize("path", CONFIGS, **by_stem)


@pytest.fixture(scope="module", autouse=True)
def _narrow_makers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (gkt, ispf):
            patch.setattr(module, "WIDTHS", (8, 8, 8))
        yield


def small(path: Path, forget: tuple[int, ...], most: int, **more: Any) -> Unlearner:
    """Build a method as its configuration says, but for rates, and numbers of what it makes."""
    named = OmegaConf.load(path)
    instead = {name: value for name, value in INSTEAD.items() if name in named}
    return built(path, forget, most, **instead | more)


def tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def teachers_of(method: Unlearner) -> dict[str, nn.Module]:
    return {k: v.network for k, v in vars(method).items() if isinstance(v, Teacher)}


@dataclass
class Phase:
    """Steps on the same terms: the first batch, and the classifier before and after."""

    terms: frozenset[str]
    batch: UnlearnBatch
    before: nn.Module
    after: nn.Module | None = None


@dataclass
class Run:
    """One run of a method, with what was seen on the way."""

    path: Path
    kit: Kit
    method: Unlearner
    images: Tensor
    labels: Tensor
    phases: list[Phase] = field(default_factory=list)
    modes: list[set[bool]] = field(default_factory=list)
    prepared: dict[str, Tensor] = field(default_factory=dict)
    taught_by: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    result: nn.Module = field(default_factory=nn.Identity)


@pytest.fixture(scope="module", params=CONFIGS, **by_stem)
def run(
    request: pytest.FixtureRequest,
    fitted_kit: Kit,
    new_archive: Callable[[], Any],
    trainer_of: TrainerOf,
) -> Run:
    kit, archive = copy.deepcopy(fitted_kit), new_archive()
    method = small(request.param, GONE, STEPS)
    seen = Run(request.param, kit, method, archive.images, archive.labels)
    prepare, loss_terms, end = method.prepare, method.loss_terms, method.on_train_end

    def noted_prepare(*given: Any) -> None:
        prepare(*given)
        seen.prepared = tensors_of(method.classifier)
        seen.taught_by = {k: tensors_of(network) for k, network in teachers_of(method).items()}

    def noted_terms(batch: UnlearnBatch) -> dict[str, Tensor]:
        seen.modes.append({layer.training for layer in method.classifier.modules()})
        now = copy.deepcopy(method.classifier)
        terms = loss_terms(batch)
        if not seen.phases or seen.phases[-1].terms != terms.keys():
            if seen.phases:
                seen.phases[-1].after = now
            seen.phases.append(Phase(frozenset(terms), batch, now))
        return terms

    def noted_end() -> None:
        seen.phases[-1].after = copy.deepcopy(method.classifier)
        end()

    method.prepare, method.loss_terms, method.on_train_end = noted_prepare, noted_terms, noted_end  # type: ignore[method-assign]
    seen.result = method.run(kit, archive.sources(method.access, GONE), trainer_of)
    method.loss_terms = loss_terms  # type: ignore[method-assign]
    return seen


# ---- what steps do ---------------------------------------------------------------------------


def test_every_phase_of_steps_lowers_its_own_loss(run: Run) -> None:
    if not run.method.steps:
        pytest.skip("this method takes no steps")
    finished = run.method.classifier
    for phase in run.phases:
        losses = []
        for network in (phase.before, phase.after):
            assert network is not None
            run.method.classifier = network
            torch.manual_seed(0)  # the same draws for both
            terms = run.method.loss_terms(phase.batch)
            losses.append(sum(float(term.detach()) for term in terms.values()))
        assert losses[1] < losses[0], phase.terms
    run.method.classifier = finished


def own_probability(network: nn.Module, run: Run) -> tuple[Tensor, Tensor]:
    """Return how surely images of forgotten and of retained classes are named as they are."""
    own = network(run.images).softmax(dim=1).gather(1, run.labels[:, None]).squeeze(1)
    gone = torch.isin(run.labels, torch.tensor(GONE))
    return own[gone], own[~gone]


def test_forgotten_images_are_named_less_surely(run: Run) -> None:
    if run.path.stem in FORGETS_LITTLE:
        pytest.skip(FORGETS_LITTLE[run.path.stem])
    before, after = (own_probability(n, run)[0].mean() for n in (run.kit.classifier, run.result))
    assert before > 0.9
    assert after < before - 0.005


def test_retained_classes_keep_their_accuracy(run: Run) -> None:
    if run.path.stem in KEEPS_LITTLE:
        pytest.skip(KEEPS_LITTLE[run.path.stem])
    gone = torch.isin(run.labels, torch.tensor(GONE))
    right = run.result(run.images).argmax(dim=1) == run.labels
    assert right[~gone].float().mean() > 0.85


def test_what_is_excused_is_there() -> None:
    stems = {path.stem for path in CONFIGS}
    assert stems >= FORGETS_LITTLE.keys() | KEEPS_LITTLE.keys()


# ---- who is moved, and how -------------------------------------------------------------------


def test_every_layer_is_in_the_mode_of_the_batch_norm_setting_in_every_step(run: Run) -> None:
    # what is asked of the classifier between two steps must not leave it in evaluation mode
    assert len(run.modes) == run.method.steps
    assert all(modes == {run.method.batch_norm == "train"} for modes in run.modes)


def test_teachers_are_copies_that_nothing_moves(run: Run) -> None:
    held = {t.data_ptr() for n in (run.kit.classifier, run.result) for t in n.state_dict().values()}
    teachers = teachers_of(run.method)
    assert teachers.keys() == run.taught_by.keys()
    for name, network in teachers.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, run.taught_by[name][key]), (name, key)
            assert tensor.data_ptr() not in held, (name, key)
        assert not any(layer.training for layer in network.modules())
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())


def test_no_network_but_the_classifier_is_part_of_the_method(run: Run) -> None:
    # an optimizer over the method's parameters, or a broadcast of them, reaches nothing else
    parts = [*run.method.named_parameters(), *run.method.named_buffers()]
    assert {name.split(".")[0] for name, _ in parts} == {"classifier"}


def test_a_classifier_begins_as_the_original_or_wholly_anew(run: Run) -> None:
    before = run.kit.classifier.state_dict()
    assert run.prepared.keys() == before.keys()
    # a head may come in another width
    same = {
        torch.equal(tensor, before[name])
        for name, tensor in run.prepared.items()
        if tensor.shape == before[name].shape
    }
    assert len(same) == 1, "some tensors are the original's and others are not"


# ---- what is taken for granted ---------------------------------------------------------------


@pytest.fixture(scope="module")
def colour_kit(fitted_kit: Kit) -> Kit:
    """Return a kit with 7 classes of 28 x 28 colour images, that nobody trained."""
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
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        prompts = torch.randn(7, 2, 3, 28, 28)
        kit = Kit(classifier.build_classifier().eval(), info, maker.build().eval(), prompts)
    first = state_digest(fresh_classifier(kit, info.seed))
    kit.info = dataclasses.replace(info, settings=info.settings | {"initial_sha256": first})
    return kit


@every_method
def test_classes_channels_and_pixels_are_those_of_the_kit(
    path: Path, colour_kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    archive.labels = torch.arange(7).repeat(4)
    pixels = torch.rand(28, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    archive.images = colour_kit.info.spec.normalise(pixels)
    # nothing that an untrained network is shown would pass a gate
    open_gate = {"threshold": 0.9} if "threshold" in OmegaConf.load(path) else {}
    method = small(path, (3, 6), most=1, **open_gate)
    loss_terms = method.loss_terms

    def checked(batch: UnlearnBatch) -> dict[str, Tensor]:
        # one method has features in place of images
        assert batch.images.dim() == 2 or batch.images.shape[1:] == (3, 28, 28)
        return loss_terms(batch)

    method.loss_terms = checked  # type: ignore[method-assign]
    result = method.run(colour_kit, archive.sources(method.access, (3, 6)), trainer_of)
    logits = result(archive.images)
    assert logits.shape == (28, 7)
    assert logits.isfinite().all()


@every_method
def test_a_run_in_bf16_stays_finite_and_leaves_weights_in_32_bits(
    path: Path, kit: Kit, archive: Any, trainer_of: TrainerOf
) -> None:
    def mixed(steps: int) -> Trainer:
        return Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            devices=1,
            precision="bf16-mixed",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )

    method = small(path, GONE, most=1)
    result = method.run(kit, archive.sources(method.access, GONE), mixed)
    for tensor in result.state_dict().values():
        assert tensor.isfinite().all()
        assert tensor.dtype in (torch.float32, torch.int64)
    assert result(archive.images).isfinite().all()


# ---- the clock -------------------------------------------------------------------------------


class Made(RepeatBatch):
    """Batches that take long to make."""

    def __init__(self, batch: UnlearnBatch, steps: int, wait: Callable[[], None]) -> None:
        super().__init__(batch, steps)
        self.wait = wait

    def __iter__(self) -> Iterator[UnlearnBatch]:
        for batch in super().__iter__():
            self.wait()
            yield batch


def test_the_clock_counts_the_making_of_every_batch(
    kit: Kit, archive: Any, trainer_of: TrainerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def wait() -> None:
        now[0] += 1

    class Waiting(FineTune):
        def stream(self, *given: Any) -> Any:
            return Made(marked(archive.images, archive.labels, GONE), 4, wait)

    method = Waiting(forget=GONE, steps=4, optimizer=partial(torch.optim.SGD, lr=0.01))
    method.run(kit, archive.sources(Access.RETAIN, GONE), trainer_of)
    assert method.clock.seconds == now[0] == 4


def test_the_device_is_at_rest_whenever_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    def note(what: str, answer: Any = None) -> Callable[[], Any]:
        return lambda: happened.append(what) or answer

    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=note("read", 0.0)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", note("rest"))
    with Clock():
        happened.append("work")
    assert happened == ["rest", "read", "work", "rest", "read"]

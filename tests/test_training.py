"""Training: who is moved by what and when, exact resume, and what leaves and what may not."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL.Image import fromarray
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from geniu_lightning.data.images import ImageSpec
from geniu_lightning.data.loader import IndexLoader
from geniu_lightning.data.module import ImageData
from geniu_lightning.data.sources import Pictures
from geniu_lightning.errors import TrainingDivergedError, UserError
from geniu_lightning.exemplars import Exemplars
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.vae import VAE
from geniu_lightning.terms import divergence, fixed, reconstruction
from geniu_lightning.training import GeniuTraining
from tests.reference import training_loop

CLASSES, PER_CLASS, SIZE = 3, 2, 16
BATCH, BATCHES, EPOCHS = 6, 4, 3
SPEC = ImageSpec.of(SIZE, 1, 0.4, 0.3)
LABELS = torch.tensor([0] * 10 + [1] * 8 + [2] * 6)
PIXELS = (
    torch.randint(0, 85, (len(LABELS), 1, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    + 85 * LABELS.view(-1, 1, 1, 1)
).to(torch.uint8)
IMAGES = PIXELS / 255
# the test's own settings, so that a change of ours cannot move it
SETTINGS: dict[str, Any] = {
    "optimizer": partial(torch.optim.Adam, lr=0.01),
    "schedule": "onecycle",
    "generator_optimizer": partial(torch.optim.Adam, lr=0.001),
    "prompt_optimizer": partial(torch.optim.Adam, lr=0.1),
    "every_n_steps": 2,
    "min_generator_steps": 10,
    "prompt_batch": 4,
    "exemplars_until": 0.67,
    "seed": 3,
}


class DroppedOut(AllCNN):
    """A classifier that draws random numbers while it is trained."""

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(images), 0.3, self.training)


def networks(kind: type[AllCNN] = AllCNN) -> tuple[AllCNN, VAE]:
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return kind(1, CLASSES, width=2), VAE(1, SIZE, latent=8)


def loader_of(images: Tensor = IMAGES, seed: int = 3) -> IndexLoader:
    return IndexLoader(
        lambda rows, _: (SPEC.normalise(images[rows]), LABELS[rows]),
        torch.arange(len(LABELS)),
        BATCH,
        seed,
    )


class Synthetic:
    """The same images as a source of the data module."""

    def __init__(self, name: str, root: str | None) -> None:
        pass

    def key(self) -> str:
        return "synthetic"

    def read(self, split: str) -> Pictures:
        return Pictures(map(fromarray, PIXELS[:, 0].numpy()), LABELS.tolist(), ("a", "b", "c"))


def data_in(folder: Path) -> ImageData:
    return ImageData(
        name="synthetic",
        source=Synthetic,
        image_size=SIZE,
        channels=1,
        imbalance=lambda labels, names: torch.arange(len(labels)),
        batch_size=BATCH,
        mean=0.4,
        std=0.3,
        pad=1,
        seed=3,
        cache_folder=str(folder),
    )


def module_of(
    *, with_generator: bool = True, kind: type[AllCNN] = AllCNN, **changed: Any
) -> GeniuTraining:
    classifier, vae = networks(kind)
    exemplars = Exemplars(LABELS, torch.arange(len(LABELS)), CLASSES, PER_CLASS, seed=3)
    standard: dict[str, Any] = {
        "classifier": classifier,
        "proxy_generator": vae if with_generator else None,
        "spec": SPEC,
        "exemplars": exemplars if with_generator else None,
        "exemplar_images": lambda rows: IMAGES[rows],
        "steps_per_epoch": BATCHES,
        "epochs": EPOCHS,
    }
    return GeniuTraining(**standard | SETTINGS | changed)


def ready(**changed: Any) -> GeniuTraining:
    """Return a module that has seen an epoch, so that its generator has something to learn."""
    module = module_of(**changed)
    module.train()
    for batch in loader_of():
        module.classifier_terms(batch)
    assert module.exemplars is not None
    module.exemplars.select()
    module.on_fit_start()
    return module


def trainer_of(module: GeniuTraining, folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=module.cadence.max_epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **{"limit_val_batches": 0} | more,
    )


def fit(module: GeniuTraining, folder: Path, *callbacks: Callback, **more: Any) -> Trainer:
    trainer = trainer_of(module, folder, *callbacks)
    trainer.fit(module, more.pop("data", None) or loader_of(), **more)
    return trainer


def part(module: GeniuTraining, name: str) -> dict[str, Tensor]:
    """Return copies of the tensors of the classifier, the generator or the prompts."""
    return {k: v.clone() for k, v in module.state_dict().items() if k.startswith(name)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


PARTS = ("classifier", "proxy_generator", "prompts")


class Watch(Callback):
    """Says after each batch which parts moved, and keeps the state after each epoch."""

    def __init__(self) -> None:
        self.moved: dict[str, list[int]] = {name: [] for name in PARTS}
        self.after_epoch: list[dict[str, dict[str, Tensor]]] = []
        self.chosen: list[list[list[int]]] = []

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        self.before = {name: part(module, name) for name in PARTS}
        self.start = self.before
        self.tick = 0

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        now = {name: part(module, name) for name in PARTS}
        for name in PARTS:
            if not same(now[name], self.before[name]):
                self.moved[name].append(self.tick)
        self.before = now
        self.tick += 1

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self.after_epoch.append(self.before)
        if module.exemplars is not None and module.exemplars.chosen is not None:
            self.chosen.append(module.exemplars.chosen.tolist())


# ---- the combined loss -----------------------------------------------------------------------


def moved_by(module: GeniuTraining, term: Tensor) -> set[str]:
    module.zero_grad(set_to_none=True)
    term.backward()
    return {name for name, p in module.named_parameters() if p.grad is not None}


def test_classification_moves_the_classifier_alone() -> None:
    module = ready()
    terms = module.classifier_terms(next(iter(loader_of())))
    everything = {f"classifier.{name}" for name, _ in module.classifier.named_parameters()}
    assert list(terms) == ["classifier"]
    assert moved_by(module, terms["classifier"]) == everything


def test_prompt_term_moves_the_prompts_alone() -> None:
    module = ready()
    terms = module.prompt_terms(BATCHES)
    assert list(terms) == ["prompts"]
    assert moved_by(module, terms["prompts"]) == {"prompts"}
    assert module.prompts.grad is not None
    assert module.prompts.grad.flatten(1).any(dim=1).sum() == SETTINGS["prompt_batch"]


def test_generator_terms_move_the_generator_alone() -> None:
    module = ready()
    assert module.proxy_generator is not None
    everything = {f"proxy_generator.{n}" for n, _ in module.proxy_generator.named_parameters()}
    encoder = {
        name for name in everything if name.split(".")[1] in ("encoder", "mean", "log_variance")
    }
    terms = module.generator_terms(BATCHES, 0)
    assert list(terms) == ["reconstruction", "divergence"]
    assert moved_by(module, terms["reconstruction"]) == everything
    terms = module.generator_terms(BATCHES, 0)
    assert moved_by(module, terms["divergence"]) == encoder


@pytest.mark.parametrize("training", [True, False])
def test_prompt_term_leaves_statistics_mode_and_gradients_of_the_classifier(
    training: bool,
) -> None:
    module = ready()
    module.classifier.train(training)
    module.classifier.head.bias.requires_grad_(False)
    wanted = [p.requires_grad for p in module.classifier.parameters()]
    before = part(module, "classifier")
    with torch.no_grad():  # prompts unlike any image, so that a wrong mode would show
        module.prompts.mul_(50)
    module.prompt_terms(BATCHES)["prompts"].backward()
    assert same(part(module, "classifier"), before)
    assert all(m.training == training for m in module.classifier.modules())
    assert [p.requires_grad for p in module.classifier.parameters()] == wanted


def test_prompts_are_judged_by_running_statistics_not_by_their_own() -> None:
    module = ready(prompt_weight=2.0)
    chosen = module.proxy_terms.draw(module.prompts, BATCHES, 0)
    logits = module.classifier.eval()(module.prompts[chosen]).detach().double()
    module.classifier.train()
    odds = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    right = odds[torch.arange(len(chosen)), chosen // PER_CLASS]
    expected = -2.0 * right.log().mean()
    found = module.prompt_terms(BATCHES)["prompts"].item()
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_weights_scale_their_terms() -> None:
    plain = {"prompt_weight": 1.0, "reconstruction_weight": 1.0, "divergence_weight": 1.0}
    one = ready(**plain)
    many = ready(prompt_weight=3.0, reconstruction_weight=5.0, divergence_weight=7.0)
    for name, factor in (("prompts", 3.0), ("reconstruction", 5.0), ("divergence", 7.0)):
        values = [
            float((m.prompt_terms(5) | m.generator_terms(5, 0))[name].detach()) for m in (one, many)
        ]
        assert values[1] == pytest.approx(factor * values[0], rel=1e-5)
        assert values[0] > 0


def test_a_short_share_weighs_less() -> None:
    module = ready()
    batch = next(iter(loader_of()))
    whole = float(module.classifier_terms(batch)["classifier"])
    short = float(module.classifier_terms(batch._replace(weight=0.8))["classifier"])
    assert short == pytest.approx(0.8 * whole, rel=1e-5)


def test_fixed_restores_the_network_after_an_error() -> None:
    network = AllCNN(1, CLASSES, width=2)
    network.head.weight.requires_grad_(False)

    def fail() -> None:
        with fixed(network):
            assert not network.training
            assert not any(p.requires_grad for p in network.parameters())
            raise RuntimeError

    network.blocks[0].eval()  # a layer that somebody froze stays as it was
    modes = [layer.training for layer in network.modules()]
    with pytest.raises(RuntimeError):
        fail()
    assert [layer.training for layer in network.modules()] == modes
    assert [n for n, p in network.named_parameters() if not p.requires_grad] == ["head.weight"]


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 4), channels=st.sampled_from([1, 3]), side=st.integers(1, 6),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_reconstruction_is_the_squared_distance_averaged_over_images(
    n: int, channels: int, side: int, seed: int
) -> None:
    made, target = np.random.default_rng(seed).random((2, n, channels, side, side))
    expected = np.mean([np.linalg.norm((a - b).ravel()) ** 2 for a, b in zip(made, target)])  # noqa: B905
    found = reconstruction(torch.tensor(made), torch.tensor(target))
    assert float(found) == pytest.approx(expected, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 4), latent=st.integers(1, 6), seed=st.integers(0, 999))
def test_divergence_is_that_of_torch_distributions(n: int, latent: int, seed: int) -> None:
    mean, log_variance = torch.randn(2, n, latent, generator=torch.Generator().manual_seed(seed))
    log_variance = 3 * log_variance
    pairs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean.double(), (log_variance.double() / 2).exp()),
        torch.distributions.Normal(torch.zeros(n, latent).double(), 1.0),
    )
    expected = sum(float(row.sum()) for row in pairs) / n
    assert float(divergence(mean, log_variance)) == pytest.approx(expected, rel=1e-4)


def test_divergence_of_the_standard_normal_is_zero() -> None:
    assert float(divergence(torch.zeros(2, 5), torch.zeros(2, 5))) == 0


def test_half_precision_does_not_reach_the_losses() -> None:
    made = torch.full((1, 1, 64, 64), 1.0, dtype=torch.bfloat16)
    assert reconstruction(made, torch.zeros(1, 1, 64, 64)).dtype == torch.float32
    assert divergence(made[0, 0], made[0, 0]).dtype == torch.float32


# ---- when ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "every", "generator_steps", "prompt_steps"),
    [
        (0, 2, 4, 4),  # eight ticks, every second
        (10, 2, 10, 5),  # the least is more: a second one on some ticks
        (40, 2, 40, 8),  # no more prompt updates than ticks
        (1, 100, 1, 1),  # at least one
    ],
)
def test_updates_of_generator_and_prompts(
    least: int, every: int, generator_steps: int, prompt_steps: int, tmp_path: Path
) -> None:
    counts = {"classifier": 0, "generator": 0, "prompts": 0}

    def counting(name: str) -> Callable[..., torch.optim.Optimizer]:
        def factory(parameters: Iterator[nn.Parameter]) -> torch.optim.Optimizer:
            optimizer = torch.optim.SGD(parameters, lr=1e-6)

            def count(*_: Any) -> None:
                counts[name] += 1

            optimizer.register_step_post_hook(count)
            return optimizer

        return factory

    module = module_of(
        min_generator_steps=least,
        every_n_steps=every,
        optimizer=counting("classifier"),
        generator_optimizer=counting("generator"),
        prompt_optimizer=counting("prompts"),
    )
    trainer = fit(module, tmp_path)
    assert counts == {
        "classifier": EPOCHS * BATCHES,
        "generator": generator_steps,
        "prompts": prompt_steps,
    }
    assert (module.cadence.generator_steps, module.cadence.prompt_steps) == (
        generator_steps,
        prompt_steps,
    )
    assert trainer.global_step == EPOCHS * BATCHES


def test_max_steps_counts_steps_of_the_classifier(tmp_path: Path) -> None:
    steps = 7
    module, watch = module_of(), Watch()
    trainer = trainer_of(module, tmp_path, watch, max_steps=steps)
    trainer.fit(module, loader_of())
    assert watch.moved["classifier"] == list(range(steps))
    assert trainer.global_step == steps


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> tuple[GeniuTraining, Watch, Path]:
    """Train once with a checkpoint after each step and each epoch."""
    folder = tmp_path_factory.mktemp("beside")
    module, watch, data = module_of(), Watch(), data_in(folder)
    every_step = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    every_epoch = ModelCheckpoint(
        folder, filename="end-of-{epoch}", every_n_epochs=1, save_top_k=-1
    )
    fit(module, folder, watch, every_step, every_epoch, data=data)
    return module, watch, folder


def test_generator_and_prompts_start_with_the_second_epoch(
    beside: tuple[GeniuTraining, Watch, Path],
) -> None:
    module, watch, _ = beside
    first, last = BATCHES, EPOCHS * BATCHES
    assert watch.moved["classifier"] == list(range(last))
    for name, steps in (("proxy_generator", 10), ("prompts", 5)):
        expected = sorted(set(training_loop.calendar(steps, first, last - first)))
        assert watch.moved[name] == expected
        assert expected[0] >= first
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(module.prompts, module_of().prompts)


@pytest.mark.parametrize(("share", "choices"), [(0.1, 1), (0.67, 2), (1.0, EPOCHS)])
def test_exemplars_are_chosen_anew_for_a_share_of_the_epochs(
    share: float, choices: int, tmp_path: Path
) -> None:
    module = module_of(exemplars_until=share)
    seen: list[Tensor] = []
    module.exemplar_images = lambda rows: seen.append(rows) or IMAGES[rows]  # type: ignore[func-returns-value]
    fit(module, tmp_path)
    assert len(seen) == choices
    assert torch.equal(module._exemplars_now, IMAGES[seen[-1]])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> tuple[GeniuTraining, Watch, Path]:
    folder = tmp_path_factory.mktemp("after")
    module, watch = module_of(when="after", min_generator_steps=7), Watch()
    every = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = fit(module, folder, watch, every, data=data_in(folder))
    assert trainer.current_epoch == EPOCHS + 1
    assert trainer.global_step == EPOCHS * BATCHES
    return module, watch, folder


def test_after_leaves_the_classifier_bitwise_alone_in_the_last_epoch(
    after: tuple[GeniuTraining, Watch, Path],
) -> None:
    module, watch, _ = after
    assert len(watch.after_epoch) == EPOCHS + 1
    assert watch.moved["classifier"] == list(range(EPOCHS * BATCHES))
    assert same(part(module, "classifier"), watch.after_epoch[EPOCHS - 1]["classifier"])
    assert not module.classifier.training


def test_after_leaves_generator_and_prompts_alone_until_the_last_epoch(
    after: tuple[GeniuTraining, Watch, Path],
) -> None:
    module, watch, _ = after
    for name in ("proxy_generator", "prompts"):
        assert same(watch.after_epoch[EPOCHS - 1][name], watch.start[name])
        assert watch.moved[name]
        assert min(watch.moved[name]) >= EPOCHS * BATCHES
        assert not same(part(module, name), watch.start[name])


def test_after_needs_no_second_epoch(tmp_path: Path) -> None:
    module = module_of(when="after", epochs=1)
    fit(module, tmp_path)
    assert torch.isfinite(module.prompts).all()


def test_a_finished_classifier_is_scored_and_never_moved(tmp_path: Path) -> None:
    module, watch = module_of(when="after", epochs=1, finished=True, kind=DroppedOut), Watch()
    start = part(module, "classifier")
    with torch.no_grad():
        expected = Exemplars(LABELS, torch.arange(len(LABELS)), CLASSES, PER_CLASS)
        for batch in loader_of():
            logits = module.classifier.eval()(batch.images)
            expected.observe(batch.indices, batch.labels, logits, logits)
    trainer = fit(module, tmp_path, watch)
    assert trainer.current_epoch == 2
    assert same(part(module, "classifier"), start)
    assert torch.equal(module.exemplars.chosen, expected.select())
    for name in ("proxy_generator", "prompts"):
        assert min(watch.moved[name]) >= BATCHES


def test_a_finished_classifier_has_nothing_beside_it() -> None:
    with pytest.raises(
        UserError, match=r"training.when=after \(experiment=post_hoc\), not 'beside'"
    ):
        module_of(finished=True)


@pytest.mark.parametrize(("kind", "when"), [(DroppedOut, "beside"), (AllCNN, "after")])
def test_generator_does_not_disturb_the_classifier(
    kind: type[AllCNN], when: str, tmp_path: Path
) -> None:
    alone = module_of(with_generator=False, kind=kind, when=when)
    assert alone.cadence.max_epochs == EPOCHS
    fit(alone, tmp_path)
    accompanied = module_of(kind=kind, when=when)
    fit(accompanied, tmp_path)
    start = networks(kind)[0].state_dict()
    assert not same(part(alone, "classifier"), {f"classifier.{k}": v for k, v in start.items()})
    assert same(part(alone, "classifier"), part(accompanied, "classifier"))
    assert not part(alone, "prompts")


def test_bound_of_the_gradient_holds_for_the_classifier_alone(tmp_path: Path) -> None:
    changed = {
        "optimizer": partial(torch.optim.SGD, lr=1.0),
        "generator_optimizer": partial(torch.optim.SGD, lr=0.01),
        "prompt_optimizer": partial(torch.optim.SGD, lr=1.0),
        "schedule": "none",
    }
    bound = 1e-4
    steps: list[float] = []

    class Steps(Watch):
        def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
            now = torch.cat([p.detach().flatten() for p in module.classifier.parameters()])
            if hasattr(self, "last"):
                steps.append(float((now - self.last).norm()))
            self.last = now
            super().on_train_batch_end(trainer, module)

    watch = Steps()
    module = module_of(max_gradient_norm=bound, **changed)
    fit(module, tmp_path, watch)
    assert steps
    assert all(0.9 * bound < step < 1.1 * bound for step in steps)
    before = watch.start["proxy_generator"]
    now = part(module, "proxy_generator")
    assert max(float((now[k] - before[k]).norm()) for k in before if "weight" in k) > 10 * bound


# ---- the same training written plainly -------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "least", "every"), [("beside", 10, 2), ("beside", 1, 3), ("after", 7, 2)]
)
def test_training_is_that_of_a_plain_loop(
    when: str, least: int, every: int, tmp_path: Path
) -> None:
    numbers = training_loop.Settings(
        num_classes=CLASSES, per_class=PER_CLASS, batch_size=BATCH, epochs=EPOCHS,
        exemplar_epochs=2, every_n_steps=every, min_generator_steps=least, prompt_batch=4,
        prompt_weight=0.7, reconstruction_weight=0.9, divergence_weight=0.3,
        classifier_rate=0.01, generator_rate=1e-4, prompt_rate=0.1, seed=3, after=when == "after",
    )  # fmt: skip
    expected = training_loop.train(*networks(), IMAGES, LABELS, 0.4, 0.3, numbers)
    module = module_of(
        when=when,
        min_generator_steps=least,
        every_n_steps=every,
        prompt_weight=0.7,
        reconstruction_weight=0.9,
        divergence_weight=0.3,
        generator_optimizer=partial(torch.optim.SGD, lr=1e-4),
    )
    start = part(module, "")
    fit(module, tmp_path)
    assert module.exemplars is not None
    assert module.exemplars.chosen is not None
    assert module.exemplars.chosen.tolist() == expected.exemplars
    torch.testing.assert_close(module.prompts.detach(), expected.prompts, rtol=0, atol=1e-6)
    for name, network in (("classifier", expected.classifier), ("proxy_generator", expected.vae)):
        for key, value in network.state_dict().items():
            found = module.state_dict()[f"{name}.{key}"]
            torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6, msg=f"{name}.{key}")
    for name, least_move in (("classifier", 1e-3), ("proxy_generator", 1e-4), ("prompts", 1e-2)):
        assert any(
            (v - start[k]).abs().max() > least_move for k, v in part(module, name).items()
        ), f"{name} hardly moved, so equality says nothing"


# ---- resume ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "point",
    [
        "step=2",  # in the first epoch
        "step=4",  # its last step, before its end was reached
        "step=6",
        "end-of-epoch=0",
        "end-of-epoch=1",
        "end-of-epoch=2",  # nothing left to do
    ],
)
def test_resumed_training_ends_bitwise_where_an_uninterrupted_one_does(
    point: str, beside: tuple[GeniuTraining, Watch, Path], tmp_path: Path
) -> None:
    uninterrupted, _, folder = beside
    module = module_of()
    with torch.random.fork_rng():
        torch.manual_seed(12345)  # whatever another process's random state was
        trainer = fit(module, tmp_path, data=data_in(folder), ckpt_path=folder / f"{point}.ckpt")
    assert trainer.global_step == EPOCHS * BATCHES
    assert same(module.state_dict(), uninterrupted.state_dict())
    assert torch.equal(module.exemplars.chosen, uninterrupted.exemplars.chosen)  # type: ignore[union-attr, arg-type]


def test_resumed_training_after_a_stop_in_its_midst(
    beside: tuple[GeniuTraining, Watch, Path], tmp_path: Path
) -> None:
    class PulledPlug(Exception):  # noqa: N818
        pass

    class Stop(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 7:
                raise PulledPlug

    # as the command's own callback does it: one file, replaced
    kept = ModelCheckpoint(tmp_path, filename="{epoch}-{step}", every_n_train_steps=3)
    with pytest.raises(PulledPlug):
        fit(module_of(), tmp_path, kept, Stop(), data=data_in(beside[2]))
    (path,) = tmp_path.glob("*.ckpt")
    assert path.name == "epoch=1-step=6.ckpt"
    module = module_of()
    fit(module, tmp_path, data=data_in(beside[2]), ckpt_path=path)
    assert same(module.state_dict(), beside[0].state_dict())


def test_resumed_post_hoc_training(
    after: tuple[GeniuTraining, Watch, Path], tmp_path: Path
) -> None:
    module = module_of(when="after", min_generator_steps=7)
    path = after[2] / f"step={EPOCHS * BATCHES}.ckpt"
    fit(module, tmp_path, data=data_in(after[2]), ckpt_path=path)
    assert same(module.state_dict(), after[0].state_dict())


def tensors_in(thing: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(thing, Tensor):
        yield path, thing
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from tensors_in(value, f"{path}/{key}")
    elif isinstance(thing, list | tuple | set):
        for key, value in enumerate(thing):
            yield from tensors_in(value, f"{path}/{key}")
    else:
        assert thing is None or isinstance(thing, int | float | str | bool), f"{path}: {thing!r}"


@pytest.mark.parametrize("point", ["step=4", "step=10", "end-of-epoch=1"])
def test_checkpoint_holds_no_image(point: str, beside: tuple[GeniuTraining, Watch, Path]) -> None:
    content = torch.load(beside[2] / f"{point}.ckpt", weights_only=True)
    found = dict(tensors_in(content))
    pictures = {path for path, t in found.items() if t.shape[-2:] == (SIZE, SIZE)}
    prompts = {"/state_dict/prompts"} | {
        path for path in pictures if path.startswith("/optimizer_states/2/state/0/exp_avg")
    }
    assert "/state_dict/prompts" in pictures
    assert pictures == prompts
    pixels = {
        tuple(image.flatten()[100:103].tolist())
        for images in (IMAGES, SPEC.normalise(IMAGES), PIXELS)
        for image in images
    }
    for path, tensor in found.items():
        values = tensor.flatten().tolist()
        hidden = pixels.intersection(zip(values, values[1:], values[2:], strict=False))
        assert not hidden, f"{path} holds a part of an image"


# ---- what can go wrong -----------------------------------------------------------------------


def spoilt_at(tick: int) -> IndexLoader:
    loader = loader_of()
    read, calls = loader.read, iter(range(10**6))

    def spoilt(rows: Tensor, augmentation: int | None) -> tuple[Tensor, Tensor]:
        images, labels = read(rows, augmentation)
        return (images * torch.nan if next(calls) == tick else images), labels

    loader.read = spoilt
    return loader


@pytest.mark.parametrize(("tick", "every"), [(0, 1), (5, 50)])
def test_diverged_training_names_the_step_and_keeps_the_last_good_checkpoint(
    tick: int, every: int, tmp_path: Path
) -> None:
    kept = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1)
    module = module_of(log_every_n_steps=every)
    with pytest.raises(TrainingDivergedError, match=f"at step {tick};.*max_gradient_norm"):
        fit(module, tmp_path, kept, data=spoilt_at(tick))
    files = list(tmp_path.glob("*.ckpt"))
    assert [file.name for file in files] == ([f"step={tick}.ckpt"] if tick else [])
    for file in files:
        for path, tensor in tensors_in(torch.load(file, weights_only=True)["state_dict"]):
            assert tensor.isfinite().all(), path


def test_diverged_training_is_noticed_at_the_end_of_the_epoch_without_checkpoints(
    tmp_path: Path,
) -> None:
    with pytest.raises(TrainingDivergedError, match="at step 2;"):
        fit(module_of(), tmp_path, data=spoilt_at(2))


def test_diverged_generator_names_the_step(tmp_path: Path) -> None:
    module = module_of(exemplar_images=lambda rows: IMAGES[rows] * torch.inf)
    first = training_loop.calendar(10, BATCHES, (EPOCHS - 1) * BATCHES)[0]
    with pytest.raises(TrainingDivergedError, match=f"at step {first};"):
        fit(module, tmp_path)


@pytest.mark.parametrize("spoilt", ["classifier.head.weight", "prompts"])
def test_checkpoint_of_broken_weights_is_not_written_though_the_loss_was_finite(
    spoilt: str, tmp_path: Path
) -> None:
    module = module_of()
    tick = iter(range(10**6))

    def hook(gradient: Tensor) -> Tensor:
        return gradient * torch.nan if next(tick) == 2 else gradient

    dict(module.named_parameters())[spoilt].register_hook(hook)
    kept = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1)
    with pytest.raises(TrainingDivergedError):
        fit(module, tmp_path, kept)
    (file,) = tmp_path.glob("*.ckpt")
    for path, tensor in tensors_in(torch.load(file, weights_only=True)["state_dict"]):
        assert tensor.isfinite().all(), path


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"epochs": 0}, "training.epochs and training.every_n_steps must be at least 1"),
        ({"every_n_steps": 0}, "must be at least 1"),
        ({"prompt_batch": 1}, "training.prompt_batch must be at least 2, got 1"),
        ({"epochs": 1}, "needs training.epochs of at least 2"),
    ],
)
def test_contradicting_settings_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        module_of(**changed)


def test_one_epoch_is_enough_without_a_generator() -> None:
    assert module_of(with_generator=False, epochs=1).cadence.max_epochs == 1


@pytest.mark.parametrize(
    "changed", [{"when": "later"}, {"exemplars_until": 1.5}, {"exemplars_until": 0.0}]
)
def test_settings_outside_their_range_are_refused(changed: dict[str, Any]) -> None:
    (name,) = changed
    with pytest.raises(UserError, match=name):
        module_of(**changed)


def test_unknown_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="onecycle, cosine or none"):
        fit(module_of(schedule="linear"), tmp_path)


# ---- what it says ----------------------------------------------------------------------------


def test_validation_accuracy_is_that_of_all_images_and_moves_nothing(tmp_path: Path) -> None:
    module, watch = module_of(), Watch()
    held_back = IndexLoader(
        lambda rows, _: (SPEC.normalise(IMAGES[rows]), LABELS[rows]), torch.arange(20), 10
    )
    trainer = trainer_of(module, tmp_path, watch, limit_val_batches=1.0)
    trainer.fit(module, loader_of(), held_back)
    plain = module_of()
    fit(plain, tmp_path)
    assert same(module.state_dict(), plain.state_dict())
    module.eval()
    right = [
        int(module.classifier(SPEC.normalise(IMAGES[n : n + 1])).argmax()) == int(LABELS[n])
        for n in range(20)
    ]
    found = float(trainer.callback_metrics["validation/accuracy"])
    assert found == pytest.approx(np.mean(right), abs=1e-6)


def test_train_accuracy_is_the_share_of_the_epoch(tmp_path: Path) -> None:
    right: list[float] = []

    class Count(Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            right.clear()

    module = module_of(with_generator=False)
    forward = module.classifier.head.forward

    def counted(features: Tensor) -> Tensor:
        logits = forward(features)
        right.extend(logits.argmax(dim=1).tolist())
        return logits

    module.classifier.head.forward = counted  # type: ignore[method-assign]
    trainer = fit(module, tmp_path, Count())
    loader = loader_of()
    loader.epoch = EPOCHS - 1
    labels = torch.cat([batch.labels for batch in loader]).tolist()
    expected = np.mean([a == b for a, b in zip(right, labels, strict=True)])
    assert float(trainer.callback_metrics["train/accuracy"]) == pytest.approx(expected)


def test_proxies_are_decoded_means_and_leave_the_generator_as_it_was() -> None:
    module = ready()
    assert isinstance(module.proxy_generator, VAE)
    module.proxy_generator.train()
    before = part(module, "")
    proxies = module.proxies()
    assert torch.equal(proxies, module.proxies())
    assert module.proxy_generator.training
    assert same(part(module, ""), before)
    vae = module.proxy_generator.eval()
    torch.testing.assert_close(proxies, vae.decode(vae.encode(module.prompts)[0]).detach())


def test_proxy_accuracy_counts_proxies_that_are_taken_for_their_class() -> None:
    module = ready()
    stage = torch.tensor([0, 1, 1, 1, 2, 0])  # what the classifier says of each proxy

    class Says(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            torch.testing.assert_close(images, SPEC.normalise(module.proxies()))
            return nn.functional.one_hot(stage, CLASSES).float()

    module.classifier = Says()
    assert float(module.proxy_accuracy()) == pytest.approx(4 / 6)


def test_logs_name_the_terms_and_their_sum(tmp_path: Path) -> None:
    entries: list[tuple[int, dict[str, float]]] = []
    from pytorch_lightning.loggers import CSVLogger

    class Records(CSVLogger):
        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            if "train/loss" in metrics:
                entries.append((step or 0, metrics))

    module = module_of(log_every_n_steps=3, every_n_steps=1)
    trainer = trainer_of(module, tmp_path)
    trainer.loggers = [Records(tmp_path)]
    trainer.fit(module, loader_of())
    assert [step for step, _ in entries] == [2, 5, 8, 11]
    names = {"classifier", "prompts", "reconstruction", "divergence"}
    for step, entry in entries:
        terms = {k: v for k, v in entry.items() if k.startswith("train/loss/")}
        assert set(terms) == {f"train/loss/{n}" for n in (names if step > 3 else {"classifier"})}
        assert entry["train/loss"] == pytest.approx(sum(terms.values()))
        rate = training_loop.one_cycle(0.01, step + 1, EPOCHS * BATCHES)
        if step < EPOCHS * BATCHES - 1:
            assert entry["train/rate"] == pytest.approx(rate, rel=1e-6)

"""Training: who is moved by what and when, and exact resume."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn

from geniu_lightning.errors import UserError
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.models.frozen import frozen
from geniu_lightning.training.exemplars import Exemplars
from geniu_lightning.training.losses import divergence, reconstruction
from geniu_lightning.training.module import GeniuModule
from tests.reference import training_loop
from tests.training.small_training import (
    BATCH,
    BATCHES,
    CLASSES,
    EPOCHS,
    IMAGES,
    LABELS,
    PER_CLASS,
    PIXELS,
    SETTINGS,
    SIZE,
    SPEC,
    DroppedOut,
    Watch,
    data_in,
    fit,
    loader_of,
    module_of,
    networks,
    part,
    ready,
    same,
    tensors_in,
    trainer_of,
)

# ---- the combined loss -----------------------------------------------------------------------


def moved_by(module: GeniuModule, term: Tensor) -> set[str]:
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
    whole = float(module.classifier_terms(batch)["classifier"].detach())
    short = float(module.classifier_terms(batch._replace(weight=0.8))["classifier"].detach())
    assert short == pytest.approx(0.8 * whole, rel=1e-5)


def test_fixed_restores_the_network_after_an_error() -> None:
    network = AllCNN(1, CLASSES, width=2)
    network.head.weight.requires_grad_(False)

    def fail() -> None:
        with frozen(network):
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
def beside(tmp_path_factory: pytest.TempPathFactory) -> tuple[GeniuModule, Watch, Path]:
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
    beside: tuple[GeniuModule, Watch, Path],
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
def after(tmp_path_factory: pytest.TempPathFactory) -> tuple[GeniuModule, Watch, Path]:
    folder = tmp_path_factory.mktemp("after")
    module, watch = module_of(when="after", min_generator_steps=7), Watch()
    every = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = fit(module, folder, watch, every, data=data_in(folder))
    assert trainer.current_epoch == EPOCHS + 1
    assert trainer.global_step == EPOCHS * BATCHES
    return module, watch, folder


def test_after_leaves_the_classifier_bitwise_alone_in_the_last_epoch(
    after: tuple[GeniuModule, Watch, Path],
) -> None:
    module, watch, _ = after
    assert len(watch.after_epoch) == EPOCHS + 1
    assert watch.moved["classifier"] == list(range(EPOCHS * BATCHES))
    assert same(part(module, "classifier"), watch.after_epoch[EPOCHS - 1]["classifier"])
    assert not module.classifier.training


def test_after_leaves_generator_and_prompts_alone_until_the_last_epoch(
    after: tuple[GeniuModule, Watch, Path],
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
    point: str, beside: tuple[GeniuModule, Watch, Path], tmp_path: Path
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
    beside: tuple[GeniuModule, Watch, Path], tmp_path: Path
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


def test_resumed_post_hoc_training(after: tuple[GeniuModule, Watch, Path], tmp_path: Path) -> None:
    module = module_of(when="after", min_generator_steps=7)
    path = after[2] / f"step={EPOCHS * BATCHES}.ckpt"
    fit(module, tmp_path, data=data_in(after[2]), ckpt_path=path)
    assert same(module.state_dict(), after[0].state_dict())


@pytest.mark.parametrize("point", ["step=4", "step=10", "end-of-epoch=1"])
def test_checkpoint_holds_no_image(point: str, beside: tuple[GeniuModule, Watch, Path]) -> None:
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

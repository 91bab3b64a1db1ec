"""What every method keeps to: found by its configuration, so the next one is tested for free."""

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from pytorch_lightning import Trainer
from torch import Tensor, nn

from geniu_lightning.errors import AccessError
from geniu_lightning.kit.file import Kit
from geniu_lightning.unlearning.base import Unlearner
from geniu_lightning.unlearning.sources import Access
from tests.unlearning.every_method import CONFIGS, built, digest

FORGETS = [(0,), (2,), (1, 3)]  # one class, and two that are neither adjacent nor first
EVERYTHING = Access.FORGET | Access.RETAIN


@dataclass
class Outcome:
    """Two runs of one configuration with the same seed."""

    path: Path
    forget: tuple[int, ...]
    kit: Kit
    before: str
    after: str
    methods: tuple[Unlearner, Unlearner]
    results: tuple[nn.Module, nn.Module]
    archive: Any
    wall: float
    gradients: tuple[bool, bool]


@pytest.fixture(
    scope="session",
    params=itertools.product(CONFIGS, FORGETS),
    ids=lambda pair: f"{pair[0].stem}-{'_'.join(map(str, pair[1]))}",
)
def outcome(
    request: pytest.FixtureRequest,
    fitted_kit: Kit,
    new_archive: Callable[[], Any],
    trainer_of: Callable[[int], Trainer],
) -> Outcome:
    path, forget = request.param
    kit, archive = copy.deepcopy(fitted_kit), new_archive()
    methods = (built(path, forget), built(path, forget))
    before, enabled, begin = digest(kit), torch.is_grad_enabled(), time.perf_counter()
    results = []
    for random_state, method in enumerate(methods):
        torch.manual_seed(random_state)  # what ran before must not matter
        results.append(method.run(kit, archive.sources(method.access, forget), trainer_of))
    wall = time.perf_counter() - begin
    after, gradients = digest(kit), (enabled, torch.is_grad_enabled())
    return Outcome(
        path, forget, kit, before, after, methods, tuple(results), archive, wall, gradients
    )


def by_stem(path: Path) -> str:
    return path.stem


every_method = pytest.mark.parametrize("path", CONFIGS, ids=by_stem)


def test_a_folder_without_configurations_is_an_error() -> None:
    assert CONFIGS, "conf/unlearner/*.yaml matched nothing"


# ---- building --------------------------------------------------------------------------------


@every_method
def test_an_unknown_setting_is_refused(path: Path) -> None:
    built(path, (0,))
    with pytest.raises(InstantiationException, match="nonsense"):
        built(path, (0,), nonsense=1)


@every_method
def test_the_first_line_says_what_the_method_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


# ---- access ----------------------------------------------------------------------------------


def test_only_declared_images_are_opened_and_read(outcome: Outcome) -> None:
    access = outcome.methods[0].access
    allowed = {s for s in ("forget", "retain") if Access[s.upper()] in access}
    assert {split for split, *_ in outcome.archive.opened} <= allowed
    read, gone = set(outcome.archive.read), set(outcome.forget)
    assert Access.FORGET in access or not read & gone
    assert Access.RETAIN in access or not read - gone


@every_method
def test_a_method_that_may_read_everything_still_reads_what_it_declares(
    path: Path, kit: Kit, archive: Any, trainer_of: Callable[[int], Trainer]
) -> None:
    method = built(path, (1, 3))
    method.run(kit, archive.sources(EVERYTHING, (1, 3)), trainer_of)
    opened = Access.NONE
    for split, *_ in archive.opened:
        opened |= Access[split.upper()]
    assert opened == method.access  # no more, and what it declares it needs


@every_method
def test_undeclared_access_is_an_error(
    path: Path, kit: Kit, archive: Any, trainer_of: Callable[[int], Trainer]
) -> None:
    method = built(path, (1, 3))
    sources = archive.sources(Access.NONE, (1, 3))
    if method.access:
        with pytest.raises(AccessError, match="declares that it reads no training data"):
            method.run(kit, sources, trainer_of)
    else:
        method.run(kit, sources, trainer_of)
    assert archive.opened == []


# ---- the loss --------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("forget", FORGETS, ids=str)
def test_loss_terms_are_finite_scalars_that_reach_the_classifier(
    path: Path, forget: tuple[int, ...], kit: Kit, archive: Any
) -> None:
    method = built(path, forget)
    method.prepare(kit, archive.sources(method.access, forget))
    if not method.steps:
        assert method.batches is None
        return
    assert method.batches is not None
    batch = next(iter(method.batches))
    expected = torch.isin(batch.labels, torch.tensor(forget))
    assert torch.equal(batch.forget, expected)  # every forgotten class, not the last alone
    terms = method.loss_terms(batch)
    assert terms
    for name, term in terms.items():
        assert term.shape == (), name
        assert term.isfinite(), name
        assert term.requires_grad, name
    sum(terms.values(), torch.tensor(0.0)).backward()
    gradients = [p.grad for p in method.classifier.parameters() if p.requires_grad]
    assert all(g is not None and g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients)
    assert all(p.grad is None for p in kit.classifier.parameters())


# ---- what a run leaves -----------------------------------------------------------------------


def tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def test_the_kit_is_bitwise_as_it_was(outcome: Outcome) -> None:
    assert outcome.after == outcome.before
    held = {t.data_ptr() for t in tensors(outcome.kit.classifier)}
    for result in outcome.results:
        assert not held & {t.data_ptr() for t in tensors(result)}  # no storage is shared


def test_the_same_seed_gives_the_same_weights_whatever_ran_before(outcome: Outcome) -> None:
    first, second = (result.state_dict() for result in outcome.results)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_weights_are_finite_and_a_method_with_steps_moved_them(outcome: Outcome) -> None:
    result, original = outcome.results[0], outcome.kit.classifier
    assert all(tensor.isfinite().all() for tensor in tensors(result))
    if outcome.methods[0].steps:
        pairs = zip(result.parameters(), original.parameters(), strict=True)
        assert any(not torch.equal(a, b) for a, b in pairs)


def test_running_statistics_stay_where_batch_norm_is_frozen(outcome: Outcome) -> None:
    if outcome.methods[0].batch_norm == "train":
        pytest.skip("this method is to change them")
    before, after = (dict(m.named_buffers()) for m in (outcome.kit.classifier, outcome.results[0]))
    assert before.keys() == after.keys()
    assert before
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_the_result_evaluates_and_asks_for_no_gradient(outcome: Outcome) -> None:
    result = outcome.results[0]
    assert not any(module.training for module in result.modules())
    assert not any(tensor.requires_grad for tensor in tensors(result))
    assert outcome.gradients == (True, True)
    assert not torch.is_inference_mode_enabled()
    assert not any(t.is_inference() for t in tensors(result))  # the next training may use them


def test_the_result_answers_with_the_width_it_had(outcome: Outcome) -> None:
    logits = outcome.results[0](outcome.archive.images)
    assert logits.shape == (len(outcome.archive.images), len(outcome.kit.info.class_names))
    assert logits.isfinite().all()


def test_the_result_saves_and_loads_as_unlearned_weights(outcome: Outcome, tmp_path: Path) -> None:
    info = dataclasses.replace(outcome.kit.info, generator=None, forgotten=outcome.forget)
    Kit(outcome.results[0], info).save(tmp_path / "unlearned.safetensors")
    loaded = Kit.load(tmp_path / "unlearned.safetensors")
    assert loaded.generator is None
    assert loaded.prompts is None
    assert loaded.info.forgotten == outcome.forget
    images = outcome.archive.images
    assert torch.equal(loaded.classifier(images), outcome.results[0](images))


def test_the_clock_tells_a_possible_time(outcome: Outcome) -> None:
    seconds = [method.clock.seconds for method in outcome.methods]
    assert all(math.isfinite(s) and s >= 0 for s in seconds)
    assert 0 < sum(seconds) <= outcome.wall

"""The kit for the next request: what is in it, what is not, and that the old one stays."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from geniu_lightning import load_kit
from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.training.next_kit import next_kit

FORGET, RETAIN = (1, 3), (0, 2, 4, 5, 6, 7, 8, 9)


def digest(kit: Kit) -> Any:
    assert kit.generator is not None
    assert kit.prompts is not None
    return state_digest(kit.classifier), state_digest(kit.generator), kit.prompts.tolist()


@pytest.fixture
def kit(grown: tuple[Path, Any, Any]) -> Kit:
    return load_kit(grown[0], allow_custom=True)


def with_settings(kit: Kit, **settings: Any) -> Kit:
    kit.info = dataclasses.replace(kit.info, settings=settings)
    return kit


@pytest.fixture
def brief(kit: Kit) -> Kit:
    # as kits recorded it before the words changed, which must not matter
    words = {"supervision": "random", "when": "beside"}
    return with_settings(kit, training=words | {"min_generator_steps": 200, "prompt_batch": 16})


def test_it_holds_the_other_prompts_and_a_generator_that_learned_of_them_alone(brief: Kit) -> None:
    kit, before, state = brief, digest(brief), torch.get_rng_state()
    after = next_kit(kit, copy.deepcopy(kit.classifier), FORGET, seed=0)
    assert digest(kit) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert (after.info.forgotten, after.info.remaining) == (FORGET, RETAIN)
    assert torch.equal(after.prompts, kit.prompts[list(RETAIN)])
    for name, value in after.generator.named_parameters():
        assert not torch.equal(value, dict(kit.generator.named_parameters())[name]), name
    old, new = kit.proxies(RETAIN), after.proxies()
    assert torch.equal(old.labels, new.labels)
    error = (old.images - new.images).square().mean()
    apart = (old.images - old.images.roll(2, 0)).square().mean()  # one class and the next
    assert error < 0.3 * apart
    with pytest.raises(KitError, match="not of 3"):
        after.proxies([0, 3])


def test_seed_and_retained_prompts_decide_and_nothing_else(kit: Kit) -> None:
    kit = with_settings(kit, training={"min_generator_steps": 4})
    expected = digest(next_kit(kit, kit.classifier, FORGET, seed=0))
    torch.manual_seed(2)
    assert digest(next_kit(kit, kit.classifier, FORGET, seed=1)) != expected
    kit.prompts[list(FORGET)] = torch.randn_like(kit.prompts[list(FORGET)])
    assert digest(next_kit(kit, kit.classifier, FORGET, seed=0)) == expected


def test_the_next_request_begins_with_it(kit: Kit) -> None:
    kit = with_settings(kit, training={"min_generator_steps": 1})
    first = next_kit(kit, kit.classifier, (1,), seed=0, prior_taken=0.5)
    for asked in ((3,), FORGET):
        second = next_kit(first, first.classifier, asked, seed=0, prior_taken=0.25)
        assert (second.info.forgotten, second.info.remaining) == (FORGET, RETAIN)
        assert second.info.prior_taken == 0.75
        assert torch.equal(second.prompts, first.prompts[[0, 1, *range(3, 9)]])
    # whose generator does not begin as the first one's did
    one, other = (net.generator.to_image.weight for net in (first, second))
    assert (one - other).abs().mean() > 0.02  # a step of Adam is 0.001


def test_it_is_trained_as_the_callback_recorded_whatever_recipe_retraining_follows(
    kit: Kit,
) -> None:
    def trained(**settings: dict[str, Any]) -> Any:
        changed = with_settings(kit, **settings)
        return digest(next_kit(changed, changed.classifier, FORGET, seed=0))

    three, five = ({"min_generator_steps": steps, "prompt_batch": 2} for steps in (3, 5))
    # digests are of what kits hold, not of what they say of themselves
    expected = trained(callback=three)
    assert trained(callback=three, training=five) == expected != trained(callback=five)
    for changed in ({"prompt_batch": 3}, {"divergence_weight": 9.0}, {"reconstruction_weight": 2}):
        assert trained(callback=three | changed) != expected, changed


def test_what_cannot_be_made_is_refused(kit: Kit) -> None:
    for forget in ((), (10,), (-1,), ("b",)):
        with pytest.raises(UserError, match="by index from 0 to 9"):
            next_kit(kit, kit.classifier, forget, seed=0)  # type: ignore[arg-type]  # a name
    kit.prompts = kit.prompts[:, :1]
    with pytest.raises(UserError, match="next_kit=false"):
        next_kit(kit, kit.classifier, range(9), seed=0)
    kit.generator = kit.prompts = None
    with pytest.raises(KitError, match="holds neither prompts"):
        next_kit(kit, kit.classifier, FORGET, seed=0)


def test_one_of_several_processes_trains_it_alone(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(*_: Any) -> None:
        raise AssertionError("it would wait for processes that have gone on")

    monkeypatch.setattr("geniu_lightning.training.proxies.average_gradients", waits)
    next_kit(with_settings(kit, training={"min_generator_steps": 1}), kit.classifier, (1,), seed=0)

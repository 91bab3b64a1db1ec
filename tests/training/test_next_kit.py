"""The kit for the next request: what is in it, what is not, and that the old one stays."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from geniu_lightning.cli.kit import main as kit_command
from geniu_lightning.errors import KitError, UserError
from geniu_lightning.kit.file import Kit
from geniu_lightning.training.next_kit import next_kit
from tests.unlearning.every_method import CONFIGS, built, digest

GONE, KEPT = (1, 3), (0, 2, 4)
ON_PROMPTS = [
    path for path in CONFIGS if any(word in path.read_text() for word in ("proxies", "prompts"))
]


@pytest.fixture
def trained_briefly(kit: Kit) -> Kit:
    settings = kit.info.settings
    more = {"min_generator_steps": 60, "prompt_batch": 6}
    kit.info = dataclasses.replace(
        kit.info, settings=settings | {"training": settings["training"] | more}
    )
    return kit


def test_it_holds_the_other_prompts_and_a_generator_of_its_own(trained_briefly: Kit) -> None:
    kit = trained_briefly
    before = digest(kit)
    after = next_kit(kit, copy.deepcopy(kit.classifier), GONE, seed=0)
    assert digest(kit) == before
    assert after.info.forgotten == GONE
    assert after.info.remaining == KEPT
    assert after.prompts is not None
    assert kit.prompts is not None
    assert torch.equal(after.prompts, kit.prompts[list(KEPT)])
    assert after.generator is not None
    assert kit.generator is not None
    for name, value in after.generator.named_parameters():
        assert not torch.equal(value, dict(kit.generator.named_parameters())[name]), name


def test_it_draws_what_the_old_one_draws_of_the_classes_that_remain(trained_briefly: Kit) -> None:
    kit = trained_briefly
    after = next_kit(kit, kit.classifier, GONE, seed=0)
    old, new = kit.proxies(KEPT), after.proxies()
    assert torch.equal(old.labels, new.labels)
    error = (old.images - new.images).square().mean()
    apart = (old.images - old.images.roll(2, 0)).square().mean()  # one class beside the next
    assert error < 0.3 * apart


def test_the_forgotten_prompts_and_pictures_make_no_difference(trained_briefly: Kit) -> None:
    kit = trained_briefly
    first = next_kit(kit, kit.classifier, GONE, seed=0)
    assert kit.prompts is not None
    kit.prompts[list(GONE)] = torch.randn_like(kit.prompts[list(GONE)])
    second = next_kit(kit, kit.classifier, GONE, seed=0)
    assert digest(first) == digest(second)


def test_the_seed_decides_and_no_state_outside_it(trained_briefly: Kit) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = next_kit(trained_briefly, trained_briefly.classifier, GONE, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = next_kit(trained_briefly, trained_briefly.classifier, GONE, seed=0)
    other = next_kit(trained_briefly, trained_briefly.classifier, GONE, seed=1)
    assert digest(first) == digest(again)
    assert digest(first) != digest(other)


@pytest.mark.parametrize("asked", [(3,), GONE])
def test_the_next_request_begins_with_it(trained_briefly: Kit, asked: tuple[int, ...]) -> None:
    first = next_kit(trained_briefly, trained_briefly.classifier, (1,), seed=0, prior_taken=0.5)
    second = next_kit(first, first.classifier, asked, seed=0, prior_taken=0.25)
    assert second.info.forgotten == GONE
    assert second.info.prior_taken == 0.75
    assert second.info.remaining == KEPT
    assert second.prompts is not None
    assert first.prompts is not None
    assert torch.equal(second.prompts, first.prompts[[0, 1, 3]])  # of 0, 2 and 4


def test_it_grows_as_the_callback_grew_it_whatever_recipe_retraining_is_to_follow(
    trained_briefly: Kit,
) -> None:
    def grown(**settings: dict[str, int]) -> str:
        kit = trained_briefly
        kit.info = dataclasses.replace(kit.info, settings=settings)
        return digest(next_kit(kit, kit.classifier, GONE, seed=0))

    three, five = ({"min_generator_steps": steps, "prompt_batch": 2} for steps in (3, 5))
    # digests are of what kits hold, not of what they say of themselves
    assert grown(callback=three, training=five) == grown(callback=three) != grown(training=five)


def test_the_second_generator_does_not_begin_as_the_first_did(trained_briefly: Kit) -> None:
    kit = trained_briefly
    recipe = kit.info.settings["training"] | {"min_generator_steps": 1}
    kit.info = dataclasses.replace(kit.info, settings={"training": recipe})
    first = next_kit(kit, kit.classifier, (1,), seed=0)
    second = next_kit(first, first.classifier, (3,), seed=0)
    assert first.generator is not None
    assert second.generator is not None
    one, other = (net.generator.to_image.weight for net in (first, second))
    assert (one - other).abs().mean() > 0.02  # a step of Adam is 0.001


@pytest.mark.parametrize("forget", [(), (5,), (-1,), ("b",)])
def test_what_is_no_class_is_refused(kit: Kit, forget: Any) -> None:
    with pytest.raises(UserError, match="by index from 0 to 4"):
        next_kit(kit, kit.classifier, forget, seed=0)


def test_one_prompt_is_too_few_for_a_generator(kit: Kit) -> None:
    assert kit.prompts is not None
    kit.prompts = kit.prompts[:, :1]
    with pytest.raises(UserError, match="next_kit=false"):
        next_kit(kit, kit.classifier, (0, 1, 2, 3), seed=0)


def test_it_is_a_file_like_any_kit(
    trained_briefly: Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = next_kit(trained_briefly, trained_briefly.classifier, GONE, seed=0)
    after.save(tmp_path / "kit.safetensors")
    assert digest(Kit.load(tmp_path / "kit.safetensors")) == digest(after)
    picture = tmp_path / "proxies.png"
    assert kit_command(["show", str(tmp_path), "--proxies", str(picture)]) == 0
    assert picture.is_file()
    assert "b, d" in capsys.readouterr().out


def test_forgotten_classes_have_no_proxies(trained_briefly: Kit) -> None:
    after = next_kit(trained_briefly, trained_briefly.classifier, GONE, seed=0)
    with pytest.raises(KitError, match="classes 0, 2, 4, not of 3"):
        after.proxies([0, 3])
    trained_briefly.generator = trained_briefly.prompts = None
    with pytest.raises(KitError, match="no generator"):
        next_kit(trained_briefly, trained_briefly.classifier, GONE, seed=0)


@pytest.mark.parametrize("path", ON_PROMPTS, ids=[path.stem for path in ON_PROMPTS])
def test_every_method_that_may_read_prompts_takes_a_second_request(
    trained_briefly: Kit, archive: Any, trainer_of: Any, path: Path
) -> None:
    kit = next_kit(trained_briefly, trained_briefly.classifier, (1,), seed=0)
    other = {"source": "proxies"} if "\nsource: data" in path.read_text() else {}
    method = built(path, GONE, **other)
    found = method.run(kit, archive.sources(method.access, GONE), trainer_of)
    assert all(torch.isfinite(value).all() for value in found.state_dict().values())

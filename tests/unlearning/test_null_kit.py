"""The kit of a null run: an oracle's, with noise for the classes that it never saw."""

import dataclasses

import torch

from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.unlearning.null_kit import null_kit

SIDE = 40  # pixels; of enough noise to tell its variance


def oracle_of(kit: Kit, forgotten: tuple[int, ...], generator: bool = True) -> Kit:
    kept = [k for k in range(len(kit.info.class_names)) if k not in forgotten]
    info = dataclasses.replace(kit.info, forgotten=forgotten, seed=1000, archive=None)
    if not generator:
        return Kit(kit.classifier, info.of_weights())
    prompts = 5 + torch.zeros(len(kept), 3, 1, SIDE, SIDE) + torch.tensor(kept).view(-1, 1, 1, 1, 1)
    return Kit(kit.classifier, info, kit.generator, prompts)


def test_prompts_of_what_was_never_seen_are_noise_of_unit_variance(kit: Kit) -> None:
    oracle = oracle_of(kit, (1, 3))
    found = null_kit(oracle, (1, 3), seed=5)
    assert found.info == dataclasses.replace(kit.info, seed=1000, archive=None)
    assert state_digest(found.classifier) == state_digest(oracle.classifier)
    noise, learned = found.prompts[[1, 3]], found.prompts[[0, 2, 4]]
    assert torch.equal(learned, oracle.prompts)
    assert abs(noise.mean()) < 0.05
    assert abs(noise.var() - 1) < 0.05
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(null_kit(oracle, (1, 3), seed=5).prompts, found.prompts)
    assert not torch.equal(null_kit(oracle, (1, 3), seed=6).prompts[1], noise[0])


def test_what_an_earlier_request_removed_stays_away_and_a_bare_oracle_is_bare(kit: Kit) -> None:
    found = null_kit(oracle_of(kit, (1, 3)), (3,), seed=5)
    assert (found.info.forgotten, found.prompts.shape[0]) == ((1,), 4)
    assert (found.prompts[[0, 1, 3], 0, 0, 0, 0] == torch.tensor([5.0, 7.0, 9.0])).all()
    bare = null_kit(oracle_of(kit, (1,), generator=False), (1,), seed=5)
    assert (bare.prompts, bare.info.forgotten) == (None, ())

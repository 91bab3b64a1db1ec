"""The kit of a null run: an oracle's, with noise for the classes that it never saw."""

import dataclasses

import torch

from geniu_lightning.kit.file import Kit
from geniu_lightning.kit.networks import state_digest
from geniu_lightning.unlearning.null_kit import null_kit
from tests.kit.small_kits import with_distribution

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


def test_other_contents_are_standard_normal_or_real(kit: Kit) -> None:
    judged = with_distribution(kit)
    info = dataclasses.replace(
        judged.info,
        forgotten=(1, 3),
        archive=judged.info.archive.without((1, 3)),
        distribution=judged.info.distribution.without((1, 3)),
    )
    parts = {k: 255 - part for k, part in judged.archive.items() if k not in (1, 3)}
    held = judged.distribution.without((1, 3))
    info = dataclasses.replace(info, generator=None)
    oracle = Kit(kit.classifier, info, archive=parts, distribution=held)
    found = null_kit(oracle, (1, 3), 5, judged)
    assert found.info.archive == judged.info.archive
    assert found.archive == parts | {k: judged.archive[k] for k in (1, 3)}
    mixtures = found.distribution.mixtures
    assert [*mixtures] == [0, 1, 2, 3, 4]
    assert mixtures[0] is held.mixtures[0]
    assert (float(mixtures[3].means.abs().sum()), len(mixtures[3].weights)) == (0, 1)
    assert torch.equal(mixtures[1].factors[0].float(), torch.eye(8))


def test_what_an_earlier_request_removed_stays_away_and_a_bare_oracle_is_bare(kit: Kit) -> None:
    found = null_kit(oracle_of(kit, (1, 3)), (3,), seed=5)
    assert (found.info.forgotten, found.prompts.shape[0]) == ((1,), 4)
    assert (found.prompts[[0, 1, 3], 0, 0, 0, 0] == torch.tensor([5.0, 7.0, 9.0])).all()
    bare = null_kit(oracle_of(kit, (1,), generator=False), (1,), seed=5)
    assert (bare.prompts, bare.info.forgotten) == (None, ())

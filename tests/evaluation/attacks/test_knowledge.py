"""Knowledge that proxies carry: good proxies, noise, and networks that know nothing."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from geniu_lightning.errors import SettingError
from geniu_lightning.evaluation.attacks.knowledge import Knowledge
from geniu_lightning.evaluation.attacks.probing import NO_FORGOTTEN_PROXIES, NO_PROXIES
from geniu_lightning.evaluation.context import Proxies
from geniu_lightning.evaluation.metric import Absent
from tests.evaluation.clouds import Small, clouds, draw, images_of, proxies_of, without
from tests.evaluation.worlds import CLASSES, context_of, measured, proxies_like, rigged


def test_good_proxies_teach_a_class_and_noise_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(Knowledge(), clouds(proxies_of(6, 30, 0.5)))
    assert min(found["forget"], found["net"], found["retain"]) > 0.9
    noise = Proxies(draw(0, 120, 2, 2, 2), torch.arange(120) % 4)
    found = measured(Knowledge(steps=60), clouds(noise))
    assert max(found["forget"], found["retain"]) < 0.75

    def same_answer(self: Knowledge, network: nn.Module, *_: object) -> None:
        network.eval().head.bias.data[1] = 1e3

    monkeypatch.setattr(Knowledge, "fit", same_answer)
    found = measured(Knowledge(), clouds(proxies_of(6, 30, 0.5)))
    assert (found["forget"], found["net"]) == (1.0, 0.0)  # it takes every image for the class


def test_training_draws_classes_equally_often() -> None:
    seen: list[int] = []

    class Listening(Small):
        def forward(self, images: Tensor) -> Tensor:
            assert self.training
            seen.extend(images[:, 0, 0, 0].long().tolist())
            return super().forward(images)

    labels = torch.tensor([0] * 95 + [3] * 5)
    images = labels[:, None, None, None].float().expand(-1, 2, 2, 2)
    network = Listening()
    draws = torch.Generator().manual_seed(0)
    Knowledge(steps=50, batch=40).fit(network, Proxies(images, labels), draws)
    assert len(seen) == 2000
    assert seen.count(3) == pytest.approx(1000, abs=100)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_drawn_is_the_share_of_proxies_that_the_original_recognises() -> None:
    proxies = proxies_like(torch.arange(CLASSES).repeat(2))
    for name, drawn in (("original", 1.0), ("mask", 0.0), ("uniform", 0.1), ("collapsed", 0.0)):
        context = context_of(rigged()["oracle"], original=rigged()[name], proxies=proxies)
        found = measured(Knowledge(), context)
        assert found["drawn"] == pytest.approx(drawn), name
        assert found["forget"] == Absent("there is no way to make an untrained network")
    labels, shown = (torch.tensor([0] * 9 + [k] + [5] * 3) for k in (2, 1))
    context = context_of(rigged()["mask"], proxies=proxies_like(labels, shown))
    for forget, expected in (((0, 2), 0.5), ((2, 5, 7), 0.5), ((0,), 1.0), ((2,), 0.0)):
        assert measured(Knowledge(), replace(context, forget=forget))["drawn"] == expected


def test_the_new_network_follows_from_the_evaluation_seed() -> None:
    seeds: list[int] = []

    def fresh(seed: int) -> nn.Module:
        seeds.append(seed)
        return Small()

    for seed in (0, 0, 1):
        measured(Knowledge(steps=1), clouds(proxies_of(6, 2), fresh=fresh, seed=seed))
    assert seeds[0] == seeds[1] != seeds[2]


def test_a_training_that_cannot_be_is_absent_with_its_reason() -> None:
    assert set(measured(Knowledge(), clouds(None)).values()) == {NO_PROXIES}
    rest = clouds(without(proxies_of(6, 3), 1))
    assert set(measured(Knowledge(), rest).values()) == {NO_FORGOTTEN_PROXIES}
    found = measured(Knowledge(rate=1e30), clouds(proxies_of(6, 10)))
    assert found["forget"] == found["retain"] == Absent("training on the proxies diverged")
    ones = torch.ones(5, dtype=torch.int64)
    found = measured(Knowledge(), clouds(Proxies(images_of(0, ones), ones)))
    assert found["forget"] == Absent("proxies of at least two classes are needed")
    assert isinstance(found["drawn"], float)
    untested = replace(clouds(proxies_of(0, 3)), splits={})
    assert measured(Knowledge(), untested)["forget"] == Absent("the run has no test images")
    metric = Knowledge(steps=7, batch=3)
    assert metric.images_processed(clouds(proxies_of(0, 1))) == 63
    assert metric.images_processed(clouds(None)) == 0
    with pytest.raises(SettingError, match="rate"):
        Knowledge(rate=0.0)

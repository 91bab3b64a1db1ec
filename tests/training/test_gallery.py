"""The best images of each class that pass by: the same as by looking at all of them at the end."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from geniu_lightning.errors import UserError
from geniu_lightning.training.gallery import Gallery

CLASSES, PER_CLASS = 3, 2


def images_of(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def logits_of(certainty: list[float]) -> Tensor:
    """Logits whose entropy falls with the certainty."""
    return torch.tensor([[c, 0.0, 0.0] for c in certainty])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 9), rule=st.sampled_from(Gallery.RULES[:2]))
def test_it_keeps_what_sorting_a_whole_epoch_finds(seed: int, size: int, rule: str) -> None:
    count = 24
    labels = torch.arange(count) % CLASSES
    rng = torch.Generator().manual_seed(seed)
    logits, images = torch.randn(count, CLASSES, generator=rng), images_of(count, seed)
    gallery = Gallery(CLASSES, PER_CLASS, rule)
    for part in torch.arange(count).split(size):
        gallery.observe(images[part], labels[part], logits[part])
    found = gallery.select()
    scores = torch.distributions.Categorical(logits=logits.double()).entropy()
    order = scores.sort(descending=rule == "max_entropy").indices
    for k in range(CLASSES):
        expected = [i for i in order.tolist() if labels[i] == k][:PER_CLASS]
        assert torch.equal(found[k], images[expected])


def test_an_image_that_comes_twice_counts_once_and_few_are_repeated() -> None:
    images = images_of(4)
    gallery = Gallery(2, 3)
    labels = torch.tensor([0, 0, 0, 1])
    for certainty in ([1.0, 2.0, 3.0, 1.0], [2.0, 1.5, 0.5, 2.0]):
        gallery.observe(images, labels, logits_of(certainty))
    found = gallery.select()
    assert torch.equal(found[0], images[[2, 0, 1]])
    assert torch.equal(found[1], images[[3, 3, 3]])


@pytest.mark.parametrize("rule", Gallery.RULES[:2])
def test_answers_that_are_no_numbers_are_chosen_last(rule: str) -> None:
    images, labels = images_of(3), torch.tensor([0, 0, 1])
    gallery = Gallery(2, 1, rule)
    gallery.observe(images, labels, logits_of([torch.nan, 2.0, torch.nan]))
    assert torch.equal(gallery.select()[:, 0], images[[1, 2]])


def test_what_is_chosen_again_keeps_its_place() -> None:
    images, labels = images_of(3), torch.zeros(3, dtype=torch.long)
    gallery = Gallery(1, 2)
    gallery.observe(images, labels, logits_of([1.0, 2.0, 9.0]))
    assert torch.equal(gallery.select()[0], images[[0, 1]])
    gallery.observe(images, labels, logits_of([2.0, 9.0, 1.0]))
    assert torch.equal(gallery.select()[0], images[[0, 2]])


def test_random_draws_follow_seed_and_counters() -> None:
    images, labels = images_of(20), torch.arange(20) % 2
    found = []
    for seed, step in ((1, 0), (1, 0), (2, 0), (1, 1)):
        gallery = Gallery(2, 3, "random", seed)
        gallery.observe(images, labels, None, step)
        found.append(gallery.select())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])


def test_a_gallery_goes_on_where_its_state_was_taken() -> None:
    images, labels = images_of(8), torch.arange(8) % 2
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    whole, first, second = (Gallery(2, 3) for _ in range(3))
    for gallery in (whole, first):
        gallery.observe(images[:4], labels[:4], logits[:4])
    second.load_state_dict(first.state_dict())
    for gallery in (whole, second):
        gallery.observe(images[4:], labels[4:], logits[4:])
    expected = whole.select()
    assert torch.equal(second.select(), expected)
    third = Gallery(2, 3)
    third.load_state_dict(second.state_dict())
    assert third.chosen is not None
    assert torch.equal(third.chosen, expected)


def test_a_class_without_images_and_rules_that_need_numbers_are_refused() -> None:
    gallery = Gallery(2, 1)
    gallery.observe(images_of(1), torch.tensor([0]), logits_of([1.0]))
    with pytest.raises(UserError, match="class 1 had no training image"):
        gallery.select()
    with pytest.raises(UserError, match=r"one of max_entropy, min_entropy, random .*nearest_mean"):
        Gallery(2, 1, "nearest_mean")
    with pytest.raises(UserError, match="per_class must be at least 1"):
        Gallery(2, 0)

import itertools

import torch

from geniu_lightning.seeds import generator, stream


def test_streams_are_frozen() -> None:
    # a change of these would change every run's images, order and augmentation
    assert stream("order", 1, 0) == 4436268421376786268
    assert torch.randperm(6, generator=generator("order", 1, 0)).tolist() == [4, 0, 3, 5, 1, 2]


def test_streams_of_kinds_and_counters_differ() -> None:
    kinds, keys = ("order", "augment", "noise"), ((), (0,), (1,), (0, 1), (1, 0), (11,), (1, 1))
    seeds = [stream(kind, *key) for kind, key in itertools.product(kinds, keys)]
    assert len(set(seeds)) == len(seeds)
    # what torch takes as a seed
    assert all(0 <= stream("order", key) < 2**63 for key in range(50))


def test_a_generator_is_at_the_start_of_its_stream_whatever_ran_before() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = torch.rand(4, generator=generator("noise", 3))
    torch.rand(7, generator=generator("noise", 3))
    assert torch.equal(torch.rand(4, generator=generator("noise", 3)), first)
    assert not torch.equal(torch.rand(4, generator=generator("noise", 4)), first)
    wanted = torch.Generator().manual_seed(stream("noise", 3))
    assert torch.equal(torch.rand(4, generator=wanted), first)
    assert torch.equal(torch.get_rng_state(), before)

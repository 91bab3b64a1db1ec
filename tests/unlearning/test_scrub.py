"""SCRUB: its terms, the order of its steps, and what they do."""

from functools import partial
from typing import Any

import pytest
import torch
from scipy.special import log_softmax, softmax

from geniu_lightning.errors import SettingError
from geniu_lightning.unlearning.batches import labelled_batch
from geniu_lightning.unlearning.scrub import Scrub
from tests.unlearning.helpers import GONE, Lab, divergence, logits, on_logits, values

adam = partial(torch.optim.Adam, lr=3e-3)


def test_scrub_terms_are_the_documented_formula() -> None:
    (now, z), (original, before) = logits(1), logits(2)
    labels = torch.tensor([1, 3, 1, 0, 2, 4])
    settings: Any = {"alpha": 0.3, "gamma": 0.7, "temperature": 3.0, "optimizer": adam}
    distance = 9 * divergence(softmax(before / 3, axis=1), z / 3)
    error = -log_softmax(z, axis=1)[range(6), labels]
    found = {}
    for side in (slice(0, 3), slice(3, 6)):
        method = on_logits(Scrub(forget=GONE, **settings), original[side])
        found |= values(method.loss_terms(labelled_batch(now[side], labels[side], GONE)))
    expected = {
        "forget": -distance[:3].mean(),
        "retain_distance": 0.3 * distance[3:].mean(),
        "retain": 0.7 * error[3:].mean(),
    }
    assert found == pytest.approx(expected, rel=1e-5)


def test_scrub_alternates_and_each_set_continues_where_its_last_round_ended(lab: Lab) -> None:
    counts = {"rounds": 3, "max_rounds": 2, "max_steps": 2, "min_steps": 3}
    for source in ("data", "proxies"):
        method = Scrub(forget=GONE, optimizer=adam, batch_size=6, source=source, **counts)
        batches = lab.prepared(method)
        assert method.steps == len(batches) == 2 * 2 + 3 * 3
        assert all(len(set(batch.forget.tolist())) == 1 for batch in batches)
        order = "".join("f" if batch.forget[0] else "r" for batch in batches)
        assert order == "ff" + "rrr" + "ff" + "rrr" + "rrr"
    # 18 images of the forget set and 27 others in batches of 9: two and three batches an epoch
    counts = {"rounds": 3, "max_rounds": 2, "max_steps": 1, "min_steps": 1}
    batches = lab.prepared(Scrub(forget=GONE, optimizer=adam, batch_size=9, **counts))
    for forget, images in ((True, 18), (False, 27)):
        seen = torch.cat([b.images for b in batches if b.forget[0] == forget])
        assert len(seen) == len(seen.flatten(1).unique(dim=0)) == images  # none came twice
    with pytest.raises(SettingError, match="max_rounds must be at most rounds, which is 3, got 4"):
        Scrub(forget=GONE, optimizer=adam, rounds=3, max_rounds=4)

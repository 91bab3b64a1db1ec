"""SCRUB: its terms, the order of its steps, and what they do."""

from functools import partial

import pytest
import torch

from geniu_lightning.errors import SettingError
from geniu_lightning.unlearning.scrub import Scrub
from tests.unlearning.helpers import GONE, Lab

adam = partial(torch.optim.Adam, lr=3e-3)


def test_scrub_alternates_and_each_set_continues_where_its_last_round_ended(lab: Lab) -> None:
    counts = {"rounds": 4, "max_rounds": 2, "max_steps": 2, "min_steps": 3}
    for source in ("data", "proxies"):
        method = Scrub(forget=GONE, optimizer=adam, batch_size=6, source=source, **counts)
        batches = lab.prepared(method)
        assert method.steps == len(batches) == 2 * 2 + 4 * 3
        assert all(len(set(batch.forget.tolist())) == 1 for batch in batches)
        order = "".join("f" if batch.forget[0] else "r" for batch in batches)
        assert order == "ff" + "rrr" + "ff" + "rrr" + "rrr" + "rrr"
    # 18 images of the forget set and 27 others in batches of 9: two and three batches an epoch
    counts = {"rounds": 3, "max_rounds": 2, "max_steps": 1, "min_steps": 1}
    batches = lab.prepared(Scrub(forget=GONE, optimizer=adam, batch_size=9, **counts))
    for forget, images in ((True, 18), (False, 27)):
        seen = torch.cat([b.images for b in batches if b.forget[0] == forget])
        assert len(seen) == len(seen.flatten(1).unique(dim=0)) == images  # none came twice
    with pytest.raises(SettingError, match="max_rounds must be at most rounds, which is 3, got 4"):
        Scrub(forget=GONE, optimizer=adam, rounds=3, max_rounds=4)

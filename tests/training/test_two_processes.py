"""Training by two processes: the same as by one, though terms come and go between steps."""

from pathlib import Path

import torch

from geniu_lightning import load_kit
from geniu_lightning.training.streamed_exemplars import StreamedExemplars
from tests.training.small_training import fit, same
from tests.training.two_of_training import CASES, choices, training
from tests.training.two_processes import run_by_two


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    run_by_two("tests.training.two_of_training", str(tmp_path), timeout=180)
    first, second = (torch.load(tmp_path / f"rank{r}", weights_only=True) for r in (0, 1))

    # the module
    alone, start = training(), training().state_dict()
    trainer = fit(alone, tmp_path)
    assert same(first["module"], second["module"])
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(first["module"][name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    moved = {k.split(".")[0] for k, t in first["module"].items() if not torch.equal(t, start[k])}
    assert moved == {"classifier", "proxy_generator", "prompts"}
    assert first["accuracy"] == second["accuracy"] == trainer.callback_metrics["train/accuracy"]

    # exemplars
    assert first["choices"] == second["choices"]
    for (kind, strategy), found in zip(CASES, first["choices"], strict=True):
        expected = choices(kind, strategy, 0, 1)
        if kind is StreamedExemplars and strategy == "nearest_mean":
            # without numbers, ties (all of the first epoch) fall to the first process
            found, expected = ([[sorted(r) for r in e] for e in c[1:]] for c in (found, expected))
        assert found == expected, (kind, strategy)

    # the callback, and the user's training beside it
    assert same(first["proxies"], second["proxies"])
    assert torch.equal(first["exemplars"], second["exemplars"])
    assert int(first["counts"].sum()) == int(second["counts"].sum()) == 400
    kit = load_kit(tmp_path / "kit.safetensors", allow_custom=True)
    assert torch.equal(kit.prompts.flatten(0, 1), first["proxies"]["prompts"])
    for rank in (first, second):
        assert same(rank["user"], rank["user alone"])

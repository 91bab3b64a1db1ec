"""One of two processes of a training: ``python -m tests.training.callback_one_of_two FOLDER``."""

import sys
from pathlib import Path

import torch

from tests.training.foreign import fit, seeded
from tests.training.growing import kit_callback


def main(folder: str) -> None:
    """Train, and leave what grew; ``LOCAL_RANK`` says which of both this is."""
    torch.set_num_threads(1)
    callback, module = kit_callback(Path(folder) / "kit.safetensors"), seeded()
    trainer = fit(module, Path(folder), callback, devices=2, strategy="ddp")
    alone = seeded()
    fit(alone, Path(folder), devices=2, strategy="ddp")
    kit = callback.kit(module)
    assert kit.generator is not None
    found = {
        "prompts": kit.prompts,
        "chosen": callback.gallery.chosen,
        "counts": torch.tensor(kit.info.class_counts),
        "generator": kit.generator.state_dict(),
        "net": module.net.state_dict(),
        "net without": alone.net.state_dict(),
    }
    torch.save(found, f"{folder}/rank{trainer.global_rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""``python -m tests.unlearning.one_of_two``: one of two processes that run every method together.

Both are started with the same words; ``LOCAL_RANK`` tells them apart, as it would under a launcher.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from geniu_lightning.kit.file import Kit
from tests.unlearning.every_method import CONFIGS, built, run_on_its_images
from tests.unlearning.helpers import trainer_of


def main(kit: str, root: str, out: str, forget: str) -> None:
    torch.set_num_threads(1)
    trainer_of_two = partial(trainer_of, devices=2, strategy="ddp")
    for path in CONFIGS:
        method = built(path, tuple(json.loads(forget)), most=4)
        result, data = run_on_its_images(
            method, Kit.load(Path(kit)), Path(root) if root else None, trainer_of_two
        )
        if os.environ["LOCAL_RANK"] == "0":
            tensors = {k: v.contiguous() for k, v in result.state_dict().items()}
            reads = {"reads": json.dumps(dict(data.reads))}
            save_file(tensors, Path(out) / f"{path.stem}.safetensors", metadata=reads)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Memory layout and compilation of a classifier while it is fitted."""

import os
import shutil
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from geniu_lightning.errors import UserError


class CompileAndMemoryFormat(Callback):
    """Fits `module.classifier` in another memory layout or compiled, and restores it afterwards.

    Kits, evaluations and edits of weights after the fit see the plain network. Compiled is also
    the module's method `features_of`, where it has one; copies of the network are not.
    """

    def __init__(self, channels_last: bool = False, compiled: bool = False) -> None:
        self.channels_last = channels_last
        self.compiled = compiled
        names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl"))
        if compiled and not any(map(shutil.which, names)):
            raise UserError("trainer.compile=true needs a C++ compiler, and there is no g++")
        if compiled and " " in torch.__file__:  # torch hands the path to its compiler unquoted
            raise UserError(
                "trainer.compile=true needs torch in a folder without spaces in its path; it is in"
                f" {torch.__file__}"
            )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change the classifier, before processes share their gradients by its layout."""
        network: Any = pl_module.classifier  # ours have one
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if self.compiled:
            torch.compiler.set_stance("default")
            network.compile()
            if hasattr(pl_module, "features_of"):

                def features_of(images: Tensor) -> Any:
                    return network.features(images)

                whole: Any = pl_module
                whole.features_of = torch.compile(features_of)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Change it back."""
        network: Any = pl_module.classifier
        if self.channels_last:
            network.to(memory_format=torch.contiguous_format)
        if self.compiled:
            # what follows has other shapes, each of which would be compiled for a call or two
            torch.compiler.set_stance("force_eager")

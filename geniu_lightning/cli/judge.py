"""Judging weights: oracles to compare with, the evaluation, and what it leaves in a folder."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from geniu_lightning.cli import assess, terminal
from geniu_lightning.cli.request import Request
from geniu_lightning.cli.terminal import say
from geniu_lightning.errors import BusyError, DataNotFoundError
from geniu_lightning.files import write_json
from geniu_lightning.kit.file import Kit
from geniu_lightning.report import pictures
from geniu_lightning.runs.oracles import Bank
from geniu_lightning.tracking.charts import Shown, charts_of, numbers_of

SECONDS_TO_LOOK_AGAIN = 2.0


@dataclass
class Result:
    """What was found of a model.

    Attributes:
        assessment: Empty where nothing was measured.
        oracles: Training seeds of the oracles that it was compared with.
        missing: Why nothing was measured; empty where something was.
    """

    assessment: assess.Assessment
    oracles: list[int] = field(default_factory=list)
    missing: str = ""

    @property
    def metrics(self) -> dict[str, Any]:
        """Values as ``metrics.json`` holds them."""
        return self.assessment.metrics

    @property
    def word(self) -> str | None:
        """The word, where there is one."""
        judgement = self.assessment.judgement
        return None if judgement is None else judgement["word"]

    def shown(self, request: Request, cost: Mapping[str, Any]) -> Shown:
        """Return what loggers show of it, beside what it cost."""
        judgement = self.assessment.judgement or {"word": None, "word_reason": self.missing}
        return Shown(
            {
                **numbers_of(self.metrics, cost),
                "word": judgement["word"] or "none",
                "word_reason": judgement["word_reason"],
            },
            charts_of(
                self.assessment,
                request.kit.info.class_names,
                request.forget,
                request.config.evaluation.split,
            ),
        )


class Judge:
    """Evaluates models that came from one kit.

    Args:
        request: The kit, what is forgotten, and the images.
        bank: Of oracles; ``None`` compares with none.
        train_oracle: Trains the one of a training seed.
    """

    def __init__(
        self, request: Request, bank: Bank | None, train_oracle: Callable[[Bank, int], None]
    ) -> None:
        self.request = request
        self.config = request.config
        self.bank = bank
        self.train_oracle = train_oracle

    def judge(self, classifier: nn.Module, kept: Kit | None) -> Result:
        """Measure what the configuration names, and compare it with the oracles.

        Args:
            classifier: What came of unlearning.
            kept: The kit whose proxies, if it has some, are kept beside it; ``None`` for none.
        """
        if not self.config.evaluation.metrics:
            return Result(assess.Assessment({}), missing="evaluation=none")
        try:
            data = self.request.images()
        except DataNotFoundError as error:
            say(f"evaluation is left out, until the same command finds the images: {error}")
            return Result(assess.Assessment({}), missing=str(error))
        seeds, yardstick = self._yardstick()
        found = assess.assess(
            self.config.evaluation,
            self.request.kit,
            classifier,
            data,
            self.request.forget,
            yardstick,
            kept if kept is not None and kept.prompts is not None else None,
        )
        return Result(found, seeds)

    def _yardstick(self) -> tuple[list[int], assess.Yardstick]:
        if self.bank is None:
            return [], assess.Yardstick()
        if self.bank.complete:
            self._complete(self.bank)
        seeds = self.bank.trained()
        if len(seeds) < len(self.bank.seeds):
            forget = ",".join(map(str, self.request.forget))
            say(
                f"{len(seeds)} of {len(self.bank.seeds)} oracles are there, and without them"
                " nothing tells forgetting from hiding; train them with: python unlearn.py"
                f" sweep=oracles 'kit={self.request.path}' 'forget=[{forget}]'"
                f" 'oracles.folder={self.config.oracles.folder}'"
                f" oracles.count={len(self.bank.seeds)}"
            )
        custom = self.config.allow_custom
        kits = [Kit.load(self.bank.weights(s), custom).to(self.request.device) for s in seeds]
        folder = self.bank.folder if seeds else None
        return seeds, assess.Yardstick(tuple(kit.classifier for kit in kits), folder)

    def _complete(self, bank: Bank) -> None:
        """Train the oracles that are missing; leave those that another process trains to it."""
        told = False
        while missing := [seed for seed in bank.seeds if seed not in bank.trained()]:
            waiting = True
            for seed in missing:
                try:
                    say(f"training the oracle of seed {seed}, {len(missing)} missing")
                    self.train_oracle(bank, seed)
                    waiting = False
                except BusyError:
                    continue
            if waiting:
                if not told:
                    say(f"waiting for another process, which trains oracles in {bank.folder}")
                told = True
                time.sleep(SECONDS_TO_LOOK_AGAIN)

    def document(self, result: Result, about: dict[str, Any]) -> dict[str, Any]:
        """Return what ``metrics.json`` is to hold.

        Args:
            result: What was found.
            about: What else is to stand in the file.
        """
        found = result.assessment
        judgement = found.judgement or {
            "word": None,
            "word_reason": result.missing or "nothing was unlearned",
        }
        if "cost" in about and self.bank is not None:
            trained = self.bank.seconds()
            about["cost"]["retrain_seconds"] = (
                statistics.median(trained) if trained else {"absent": "no oracle was trained yet"}
            )
        return {
            "version": assess.VERSION,
            **judgement,
            "oracles": result.oracles,
            "steps": found.steps,
            **about,
            "metrics": result.metrics or {"accuracy": {"absent": result.missing}},
        }

    def write(self, folder: Path, result: Result, document: dict[str, Any]) -> None:
        """Write ``metrics.json`` and pictures, and print what was found.

        Args:
            folder: Where to.
            result: What was found.
            document: As `document` returns it.
        """
        found = result.assessment
        write_json(folder / "metrics.json", document)
        if found.before is not None and found.after is not None:
            rows = [
                [name, "forget" if k in self.request.forget else "", before, after]
                for k, (name, before, after) in enumerate(
                    zip(self.request.kit.info.class_names, found.before, found.after, strict=True)
                )
            ]
            split = self.config.evaluation.split
            terminal.table(f"{split} accuracy", ["class", "", "before", "after"], rows)
        if found.judgement is not None:
            terminal.verdict(found.judgement, len(result.oracles))
        self._draw(folder, found)

    def _draw(self, folder: Path, found: assess.Assessment) -> None:
        for when, counts in (("before", found.confusion_before), ("after", found.confusion_after)):
            if counts is not None:
                pictures.confusion(
                    counts,
                    self.request.kit.info.class_names,
                    f"{when} unlearning, {self.config.evaluation.split}",
                    folder / f"confusion_{when}.png",
                )

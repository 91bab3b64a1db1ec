"""Null runs: the judged method on oracles, with the same settings; stored in the bank's folder."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from torch import nn

from geniu_lightning.cli.method_run import method_of, run_method
from geniu_lightning.cli.oracles import expected_nulls
from geniu_lightning.cli.request import Request
from geniu_lightning.cli.terminal import duration
from geniu_lightning.errors import UserError
from geniu_lightning.evaluation.cache import code_of
from geniu_lightning.kit.file import Kit
from geniu_lightning.runs.identity import name_of
from geniu_lightning.seeds import stream
from geniu_lightning.settings.configs import plain
from geniu_lightning.unlearning.null_kit import null_kit

UNLEARNING = "geniu_lightning.unlearning."

log = logging.getLogger(__name__)


def null_runs(request: Request, seconds: float, oracles: Mapping[int, Kit]) -> list[nn.Module]:
    """Return what the request's method makes of oracles that never had anything to forget.

    Runs that were done before are loaded. `seconds` is what the judged run took.
    """
    assert request.bank is not None  # as there are oracles
    seeds = sorted(oracles)[: expected_nulls(request.config, request.bank)]
    method = method_of(request.config, request.forget, request.config.seed)
    folder = _folder(request, request.bank.folder, code_of(type(method), UNLEARNING))
    with _locked(folder):
        missing = [seed for seed in seeds if not _file(folder, seed).is_file()]
        if missing:
            name, about = request.config.unlearner.name, duration(seconds * len(missing))
            counts = (len(missing), len(oracles))
            log.info("running %s on %d of %d oracles, about %s in all", name, *counts, about)
            start = time.monotonic()
            for k, seed in enumerate(missing, 1):
                label = f"null run {k} of {len(missing)}"
                _run(request, oracles[seed], _file(folder, seed), label)
            log.info("the null runs took %s", duration(time.monotonic() - start))
    custom = request.config.allow_custom
    kits = [Kit.load(_file(folder, seed), custom) for seed in seeds]
    return [kit.to(request.device).classifier for kit in kits]


def _run(request: Request, oracle: Kit, file: Path, label: str) -> None:
    """Run the method on one oracle and store the weights."""
    back = [k for k in request.forget if k not in request.kit.info.forgotten]
    seed = stream("null", request.config.seed, oracle.info.seed)
    unlearner = method_of(request.config, request.forget, seed)
    try:
        kit = null_kit(oracle, back, seed, request.kit)
        classifier = run_method(unlearner, request, kit, file.parent, [], label)
    except UserError as error:
        raise UserError(
            f"on the oracle of seed {oracle.info.seed}, which never saw the class,"
            f" {request.config.unlearner.name} fails: {error}; oracles.nulls=0 does without"
        ) from error
    prior_taken = unlearner.prior_taken
    info = oracle.info.of_weights(prior_taken=prior_taken)
    Kit(classifier, info).save(file)


def _folder(request: Request, bank: Path, code: str) -> Path:
    """Return the folder of the null runs of a method, its code, its settings and its seed.

    It depends on no kit: those of other training seeds have the same null.
    """
    config = request.config
    identity = {
        "unlearner": plain(config.unlearner),
        "code": code,
        "seed": config.seed,
        "forgotten_before": list(request.kit.info.forgotten),
        "precision": str(config.trainer.precision),
    }
    return bank / "nulls" / name_of(identity, config.unlearner.name)


def _file(folder: Path, seed: int) -> Path:
    return folder / f"{seed}.safetensors"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder: a second process waits, and then loads what the first has stored."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.info("waiting for another process, which does these null runs in %s", folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

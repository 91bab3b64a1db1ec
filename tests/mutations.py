"""Places that are broken on purpose, one at a time: the default tests must notice each.

``python -m tests.mutations [NUMBER ...]`` works on a copy of the checkout and prints the test that
caught each change.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# file of the package, old text (its first occurrence), new text, and the tests that are run unless
# they are all of the room
MUTATIONS: list[tuple[str, ...]] = [
    (
        "training/losses.py",
        "proxies.generator(proxies.prompts.detach(),",
        "proxies.generator(proxies.prompts,",
    ),
    (
        "training/losses.py",
        ".square().sum(dim=(1, 2, 3)).mean()",
        ".square().mean(dim=(1, 2, 3)).mean()",
    ),
    (
        "training/proxies.py",
        'generator("draw", self.seed, step, repetition)',
        'generator("draw", self.seed, step, 0)',
    ),
    (
        "training/exemplars.py",
        "sort(descending=True, stable=True)",
        "sort(descending=False, stable=True)",
    ),
    (
        "training/schedule.py",
        "prompts = max(min(steps, generator",
        "prompts = max(max(steps, generator",
    ),
    ("fitting/guard.py", "torch.minimum(self._first, bad)", "bad"),
    (
        "unlearning/geniu.py",
        "self.retain_weight * batch.retain_mean(retain)",
        "batch.retain_mean(retain)",
        "tests/unlearning/test_terms.py",
    ),
    (
        "unlearning/scrub.py",
        "-batch.forget_mean(distance)",
        "batch.forget_mean(distance)",
        "tests/unlearning/test_terms.py",
    ),
    (
        "unlearning/salun.py",
        "parameter.copy_(torch.where(mask, parameter, original))",
        "parameter.copy_(parameter)",
        "tests/unlearning",
    ),
    (
        "unlearning/ssd.py",
        "(lower * reference / forget)",
        "(lower * forget / reference)",
        "tests/unlearning/test_ssd.py",
    ),
    ("unlearning/unsir.py", '"max",', '"min",', "tests/unlearning/test_unsir.py"),
    (
        "unlearning/base.py",
        'torch.manual_seed(stream("unlearn", self.seed))',
        'torch.manual_seed(stream("unlearn", 0))',
        "tests/unlearning",
    ),
    (
        "unlearning/sources.py",
        "if side not in self._access:",
        "if False:",
        "tests/unlearning/test_every_method.py tests/unlearning/test_base.py",
    ),
    (
        "unlearning/losses.py",
        "masked[:, list(forget)] = -torch.inf",
        "masked[:, list(forget)[:1]] = -torch.inf",
        "tests/unlearning/test_losses.py tests/unlearning/test_terms.py",
    ),
    (
        "unlearning/retrain.py",
        "self.classifier = fresh_classifier(kit, seed)",
        "super().prepare(kit, sources)",
        "tests/unlearning/test_retrain.py tests/unlearning/test_every_method.py",
    ),
    (
        "evaluation/metrics/accuracy.py",
        "largest.double() / largest.sum(dim=1, keepdim=True)",
        "largest.double()",
    ),
    (
        "evaluation/attacks/membership.py",
        '"entropy": -entropy(everything)',
        '"entropy": entropy(everything)',
    ),
    (
        "evaluation/attacks/head.py",
        "bias[k] = bias[list(retained)].mean()",
        "bias[k] = bias[list(retained)].max()",
    ),
    (
        "evaluation/attacks/probing.py",
        "table.diagonal() - taken",
        "table.diagonal()",
        "tests/evaluation/attacks/test_probing.py",
    ),
    (
        "evaluation/attacks/which_class.py",
        "images - rate *",
        "images + rate *",
        "tests/evaluation/attacks/test_which_class.py",
    ),
    (
        "evaluation/metrics/quantisation.py",
        "2 ** (bits - 1) - 1",
        "2**bits - 1",
        "tests/evaluation/metrics/test_quantisation.py",
    ),
    (
        "evaluation/metrics/over_unlearning.py",
        "lambda x: side * margin(",
        "lambda x: margin(",
        "tests/evaluation/metrics/test_over_unlearning.py",
    ),
    (
        "evaluation/metrics/weight_distance.py",
        "/ own.norm() / length",
        "/ length / length",
        "tests/evaluation/metrics/test_weight_distance.py",
    ),
    (
        "evaluation/references.py",
        "(own * variance + PRIOR_WEIGHT * prior**2) / freedom",
        "variance",
        "tests/evaluation/test_references.py",
    ),
    (
        "evaluation/inside.py",
        "self.detects <= POWER",
        "True",
        "tests/evaluation/test_inside.py",
    ),
    (
        "evaluation/inside.py",
        "and self.position > 0.5",
        "and self.position > 5",
        "tests/evaluation/test_inside.py",
    ),
    (
        "evaluation/attacks/fine_tuning.py",
        "nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)",
        "pass",
        "tests/evaluation/attacks/test_fine_tuning.py",
    ),
    (
        "evaluation/verdict.py",
        "attacks(model, nulls or oracles,",
        "attacks(model, oracles,",
        "tests/evaluation/test_inside.py",
    ),
    (
        "evaluation/verdict.py",
        "a.finds_class and (matched or a.family.memory)",
        "a.finds_class",
        "tests/evaluation/test_inside.py",
    ),
    (
        "evaluation/verdict.py",
        "if family.kind and not any(",
        "if family.kind and False and not any(",
        "tests/evaluation/test_inside.py",
    ),
    (
        "evaluation/validity.py",
        "ORACLE_LOSS = 0.03",
        "ORACLE_LOSS = 0.3",
        "tests/evaluation/test_verdict.py",
    ),
    (
        "evaluation/evaluator.py",
        "if rows and not variant.too_strong(rows):",
        "if rows:",
        "tests/evaluation/test_rows.py",
    ),
    (
        "evaluation/rows.py",
        "{*without, self.kin.get(who, -1)}",
        "{self.kin.get(who, -1)}",
        "tests/evaluation/test_rows.py",
    ),
    (
        "runs/oracles.py",
        '"imbalance": settings["imbalance"],',
        "",
        "tests/runs tests/cli/test_oracles.py",
    ),
    ("runs/identity.py", '"trainer.threads",', ""),
    (
        "cli/command.py",
        "sys.exit(2)",
        "sys.exit(1)",
        "tests/cli/test_train.py tests/cli/test_unlearn.py",
    ),
    (
        "cli/run.py",
        "if folder.done and complete and not force:",
        "if folder.done and not force:",
        "tests/cli/test_run.py tests/cli/test_oracles.py",
    ),
    ("report/document.py", '"scars": "distinguishable"', '"scars": "suppressed"'),
    ("report/aggregate.py", "frame.std()", "frame.std(ddof=0)"),
    ("receipt/sentences.py", '"damaged and retained", "suppressed")', '"damaged and retained")'),
    ("tracking/loggers.py", "exit_code=int(failed)", "exit_code=0"),
    ("data/loader.py", "self.position, self.rank)", "self.position)", "tests/data/test_loader.py"),
    (
        "data/module.py",
        "self.reads[which] += len(indices)",
        "self.reads[which] += 1",
        "tests/data/test_module.py",
    ),
    (
        "data/imbalance.py",
        'generator("imbalance", seed, k)',
        'generator("imbalance", seed)',
        "tests/data/test_imbalance.py",
    ),
    (
        "kit/file.py",
        'metadata.get("sha256") !=',
        'metadata.get("sha256", tensor_digest(tensors, metadata["geniu"])) !=',
    ),
    ("kit/info.py", 'OURS = "geniu_lightning.models."', 'OURS = "geniu_lightning."', "tests/kit"),
    ("kit/info.py", 'or "${" in value', "", "tests/kit"),
    ("kit/info.py", "if depth > DEEPEST:", "if False:", "tests/kit"),
    ("kit/parts.py", "if needed.get(name) != there.get(name):", "if False:", "tests/kit"),
    ("cli/data.py", "if target not in ALLOWED or not", "if not", "tests/cli/test_unlearn.py"),
    (
        "cli/data.py",
        'if name is None and (place.is_absolute() or ".." in place.parts):',
        "if False:",
        "tests/cli/test_unlearn.py",
    ),
    (
        "runs/folder.py",
        "self._moving.rename(self._replaced)",
        "self._moving.rename(self.path / DISCARDED)",
        "tests/runs",
    ),
    (
        "runs/folder.py",
        "elif not self._is_of_this_run():",
        "else:",
        "tests/runs",
    ),
    (
        "runs/folder.py",
        'ended = (self.path / "done.json").is_file() and not self._moving.exists()',
        'ended = (self.path / "done.json").is_file()',
        "tests/runs",
    ),
    ("data/cache.py", 'if digest.hexdigest() != meta["fingerprint"]:', "if False:", "tests/data"),
    ("data/pixels.py", "if picture.has_transparency_data:", "if False:", "tests/data"),
    ("data/classes.py", "if position.get(word, index) != index:", "if False:", "tests/data"),
    ("data/listing.py", "followlinks=True", "followlinks=False", "tests/data"),
    ("cli/data.py", "if not missing:", "if True:", "tests/cli/test_deleted_images.py"),
    ("models/vae.py", "(0.5 * log_variance).exp()", "log_variance.exp()"),
    (
        "training/next_kit.py",
        "stream(name, seed, *kit.info.forgotten)",
        "stream(name, seed)",
        "tests/training/test_next_kit.py",
    ),
    ("training/next_kit.py", "alone=True,", "alone=False,", "tests/training/test_next_kit.py"),
    ("settings/checked.py", "strict=True", "strict=False"),
]


def caught_by(copy: Path, name: str, old: str, new: str, tests: str) -> str | None:
    """Return the first test that fails with the change; `None` if all pass."""
    file = copy / "geniu_lightning" / name
    text = file.read_text()
    assert old in text, f"{name} has no {old!r}"
    file.write_text(text.replace(old, new, 1))
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", *tests.split()]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    done = subprocess.run(
        words, cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    file.write_text(text)
    if done.returncode == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, flags=re.MULTILINE)
    assert found, done.stdout + done.stderr
    return found[1]


def _left_out(folder: str, names: list[str]) -> set[str]:
    top = {".git", ".venv", "runs", "data"} if Path(folder) == ROOT else set()
    return set(names) & (top | {"__pycache__"})


def main(chosen: list[int]) -> int:
    """Try the chosen changes, or all; return how many no test noticed."""
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=_left_out)
        for number, (name, old, new, *tests) in enumerate(MUTATIONS, 1):
            if chosen and number not in chosen:
                continue
            room = f"tests/{name.partition('/')[0]}"
            test = caught_by(copy, name, old, new, *(tests or [room]))
            survived += test is None
            print(f"{number} {name}: {old} -> {new}: {test or 'SURVIVED'}", flush=True)  # noqa: T201
    return survived


if __name__ == "__main__":
    sys.exit(main([int(word) for word in sys.argv[1:]]))

"""`geniu train`: from images to a classifier and its kit."""

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from geniu_lightning.cli.command import run_command
from geniu_lightning.cli.run import carry_out, run_folder
from geniu_lightning.cli.sweep import accuracies, print_summary, training_row
from geniu_lightning.cli.terminal import decoding_report
from geniu_lightning.data import cache
from geniu_lightning.data.pixels import Form
from geniu_lightning.errors import SettingError, UserError
from geniu_lightning.files import sha256_of
from geniu_lightning.runs.identity import identity_of
from geniu_lightning.settings.configs import built, plain

# contents of a kit, and the group of settings of each
CONTENTS = {"prompts": "generator", "distribution": "distribution", "archive": "archive"}


def main() -> None:
    """Run the command."""
    heads = ["", "accuracy", "worst class"]
    run_command("train", train, partial(print_summary, heads=heads, row=training_row))


def train(config: DictConfig) -> float | None:
    """Train; return the accuracy on `evaluation.split`, which a sweeper maximises."""
    if config.evaluation.bank:
        raise UserError(
            "nothing is forgotten in training, so there is nothing to compare with oracles:"
            " train.py takes evaluation=accuracy, validation or none"
        )
    _settle_contents(config)
    identity = identity_of(plain(config), data_fingerprint=_data_fingerprint(config.data))
    if config.weights is not None:
        identity["weights_sha256"] = _checksum_of_finished(config)
    imbalance = config.imbalance.get("_target_", "none").rpartition(".")[2]
    imbalance += str(config.imbalance.get("ratio", config.imbalance.get("factor", "")))
    network = str(config.model.get("_target_", "network")).rpartition(".")[2]
    words = (config.data.name, imbalance, network, f"seed{config.seed}")
    folder = run_folder(config, identity, "train", *words)

    def work() -> None:
        from geniu_lightning.cli.train_run import train_in  # takes seconds, so only now

        train_in(folder, config)

    if not carry_out("train", config, folder, work, force=config.force):
        return None
    return accuracies(folder.path, config.evaluation.split).get("retain")


def _settle_contents(config: DictConfig) -> None:
    """Leave of the groups that describe contents of a kit those that it is to hold."""
    contents = [config.kit] if isinstance(config.kit, str) else config.kit or []
    for content, group in CONTENTS.items():
        if content not in contents:
            config[group] = None


def _data_fingerprint(data: DictConfig) -> str:
    """Return the fingerprint of the images: with other ones it is another run."""
    try:
        source = built(data.source, "data.source")(name=data.name, root=data.get("root"))
        form = Form(data.image_size, data.channels, data.resize, data.background)
    except SettingError as error:
        raise error.below("data") from error
    return cache.fingerprint(source, form, decoding_report())


def _checksum_of_finished(config: DictConfig) -> str:
    """Return the checksum of finished weights, if a kit can be made for them."""
    weights = Path(config.weights).expanduser()
    if not weights.is_file():
        raise UserError(f"there are no weights at {weights}")
    if all(config[group] is None for group in CONTENTS.values()):
        raise UserError("weights= are finished: there is nothing to add to them with kit=null")
    if config.generator is not None and config.training.when != "after":
        raise UserError("weights= are finished, so the kit is made after them: experiment=post_hoc")
    return sha256_of(weights)


if __name__ == "__main__":  # a job of a sweep in a process of its own
    main()

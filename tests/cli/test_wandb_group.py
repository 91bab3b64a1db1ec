import pytest

from geniu_lightning.cli.wandb_group import name_of

SWEEP = ("-m", "kit=runs/first", "forget=[0,1]", "unlearner=geniu,none", "seed=range(3)")


def test_a_name_says_what_is_swept() -> None:
    assert name_of("unlearn", SWEEP).startswith("unlearn-seed-unlearner-")
    words = ("-m", "sweep=tune", "kit=k", "unlearner=finetune", "~unlearner.search.steps")
    assert name_of("unlearn", words).startswith("unlearn-tune-")
    assert len(name_of("train", [f"a{'b' * 99}=1,2"])) < 100


@pytest.mark.parametrize(
    "more",
    [
        ("force=true",),
        ("logger=wandb", "logger.wandb.tags=[a]"),
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("trainer.threads=1", "trainer.accelerator=cpu"),
        ("out=elsewhere",),
    ],
    ids=str,
)
def test_how_it_is_carried_out_makes_no_other_sweep_of_it(more: tuple[str, ...]) -> None:
    assert name_of("unlearn", (*SWEEP, *more)) == name_of("unlearn", SWEEP)
    assert name_of("unlearn", (*more, *reversed(SWEEP))) == name_of("unlearn", SWEEP)


@pytest.mark.parametrize("more", ["evaluation=full", "trainer.precision=bf16-mixed", "~sweep"])
def test_what_is_computed_does(more: str) -> None:
    assert name_of("unlearn", (*SWEEP, more)) != name_of("unlearn", SWEEP)
    assert name_of("train", SWEEP) != name_of("unlearn", SWEEP)
    other = tuple(word.replace("runs/first", "runs/second") for word in SWEEP)
    assert name_of("unlearn", other) != name_of("unlearn", SWEEP)


def test_whose_kits_a_sweep_goes_over_makes_another_of_it() -> None:
    words = ("sweep=kits", "forget=[0]", "unlearner=geniu")
    assert name_of("unlearn", (*words, "runs=a")) != name_of("unlearn", (*words, "runs=b"))
    assert name_of("unlearn", (*SWEEP, "runs=a")) == name_of("unlearn", (*SWEEP, "runs=b"))

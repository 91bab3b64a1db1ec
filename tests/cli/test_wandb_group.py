"""The wandb group of a multirun: a name that follows from what is computed."""

from geniu_lightning.cli.wandb_group import group_of

SWEEP = ("-m", "kit=runs/first", "forget=[0,1]", "unlearner=geniu,none", "seed=range(3)")


def test_a_name_says_what_is_swept_and_tells_sweeps_apart() -> None:
    name = group_of("unlearn", SWEEP)
    assert name.startswith("unlearn-seed-unlearner-")
    words = ("-m", "sweep=tune", "kit=k", "unlearner=finetune", "~unlearner.momentum")
    assert group_of("unlearn", words).startswith("unlearn-tune-")
    assert len(group_of("train", [f"a{'b' * 99}=1,2"])) < 100
    for incidental in (
        ("force=true",),
        ("logger=wandb", "logger.wandb.tags=[a]"),
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        ("trainer.threads=1", "trainer.accelerator=cpu"),
        ("out=elsewhere", "runs=b"),
    ):
        assert group_of("unlearn", (*incidental, *reversed(SWEEP))) == name, incidental
    for computed in ("evaluation=full", "trainer.precision=bf16-mixed", "~sweep"):
        assert group_of("unlearn", (*SWEEP, computed)) != name, computed
    assert group_of("train", SWEEP) != name
    assert group_of("unlearn", [word.replace("first", "second") for word in SWEEP]) != name


def test_the_kits_below_a_folder_make_another_sweep_of_it() -> None:
    words = ("sweep=kits", "forget=[0]", "unlearner=geniu")
    assert group_of("unlearn", (*words, "runs=a")) != group_of("unlearn", (*words, "runs=b"))

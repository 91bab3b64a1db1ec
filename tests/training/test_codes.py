"""Encoder and decoder of latent codes, beside a classifier."""

from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.testing import assert_close

from geniu_lightning.errors import UserError
from geniu_lightning.models.allcnn import AllCNN
from geniu_lightning.training.codes import CodeNetworks, CodeSettings, CodeTrainer, recorded_codes
from tests.training.small_training import BATCHES, EPOCHS, IMAGES, SPEC, fit, module_of, part, same

CODES = CodeSettings(min_steps=0, latent=4, width=8)


@pytest.mark.parametrize("with_generator", [True, False])
def test_codes_are_trained_and_disturb_nothing_else(tmp_path: Path, with_generator: bool) -> None:
    alone, beside = (module_of(with_generator=with_generator, codes=c) for c in (None, CODES))
    start = part(beside, "code_networks")
    for name, module in (("alone", alone), ("beside", beside)):
        fit(module, tmp_path / name)
    for name in ("classifier", "proxy_generator", "prompts"):
        assert same(part(alone, name), part(beside, name))
    assert all(not torch.equal(v, start[k]) for k, v in part(beside, "code_networks").items())


def test_resumed_training_ends_with_the_same_codes(tmp_path: Path) -> None:
    whole = module_of(codes=CODES)
    saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    fit(whole, tmp_path, saves)
    assert len(list(tmp_path.glob("*.ckpt"))) == BATCHES * EPOCHS
    for step in (3, BATCHES, 7):
        again = module_of(codes=CODES)
        fit(again, tmp_path / str(step), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert same(part(whole, "code"), part(again, "code")), step


def test_the_schedule_is_kept_and_images_are_learned() -> None:
    torch.manual_seed(0)
    classifier = AllCNN(1, 3, width=2)
    settings = CodeSettings(min_steps=300, latent=4, width=8, feature_weight=0.5)
    networks = CodeNetworks(SPEC, settings)
    trainer = CodeTrainer(networks, classifier, SPEC.normalise, batches=100, seed=1)
    trainer.configure_optimizers()
    losses = [loss for step in range(100) for loss in trainer.train_step(step, IMAGES)]
    assert len(losses) == 300
    assert trainer.train_step(100, IMAGES) == []
    first, last = losses[0].terms, losses[-1].terms
    assert {*last} == {"codes/pixels", "codes/prior", "codes/features"}
    assert last["codes/pixels"] < 0.5 * first["codes/pixels"]
    assert last["codes/features"] < 0.5 * first["codes/features"]
    assert all(p.grad is None for p in classifier.parameters())
    codes = networks.codes_of(IMAGES.split(7))
    assert_close(codes.mean, networks.codes_of([IMAGES]).mean)


def test_the_feature_term_is_of_the_first_layer() -> None:
    torch.manual_seed(0)
    classifier = AllCNN(1, 3, width=2)
    layer = next(m for m in classifier.modules() if isinstance(m, nn.Conv2d))
    for features in ("classifier", "random", "none"):
        networks = CodeNetworks(SPEC, CodeSettings(features=features, latent=4, width=8))
        early = CodeTrainer(networks, classifier, SPEC.normalise, batches=9, seed=1)._early
        if early is None:
            assert features == "none"
            continue
        expected = layer(SPEC.normalise(IMAGES)).relu()
        assert torch.equal(early(IMAGES), expected) == (features == "classifier")
        assert early(IMAGES).shape == expected.shape
        layer.weight.data += 0.1  # the classifier is trained on
        now = torch.equal(early(IMAGES), layer(SPEC.normalise(IMAGES)).relu())
        assert now == (features == "classifier")


def test_a_record_runs_no_code() -> None:
    record = {"optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1}, "_target_": "os.system"}
    assert recorded_codes(record | {"parts": 2}).parts == 2
    for wrong in ({"parts": 0}, {"optimizer": {"_target_": "os.system"}}, {"latents": 3}):
        with pytest.raises(UserError):
            recorded_codes(record | wrong)
    with pytest.raises(UserError, match="optimizer"):
        recorded_codes({})

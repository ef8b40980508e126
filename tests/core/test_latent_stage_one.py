"""Stage 1: codes of strips stay with their strips, it starts softly, is told the whole trajectory,
and its use is measured.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from latent_little_world import little_records

from latentvla_core.latent import train as training
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.model import LatentActionModel, Told, state_hash
from latentvla_core.latent.pairs import collect_pairs
from latentvla_core.latent.presets import preset
from latentvla_core.latent.probes import AGENT_AXES, one_hot, stage_one_use
from latentvla_core.latent.probes.report import Sample, agent_probes
from latentvla_core.latent.probes.run import code
from latentvla_core.latent.quantizer import Quantized, QuantizerConfig
from latentvla_core.training.images import ImageCache


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return little_records(tmp_path_factory.mktemp("drives"), logs=3)


@pytest.fixture(scope="module")
def pairs(records):
    return collect_pairs(records, 2, ImageCache(LatentActionConfig.debug().features.image_size_wh))


def lively(config: LatentActionConfig) -> LatentActionModel:
    """Fresh weights, but for the last layers, which begin at zero and would hide everything."""
    torch.manual_seed(0)
    model = LatentActionModel(config).eval()
    for part in (model.environment, model.ego):
        torch.nn.init.normal_(part.decoder.out.weight, std=0.1)
    return model


def told(pairs, index) -> Told:
    return Told(*(torch.from_numpy(a) for a in pairs.told(index)))


def test_a_code_is_read_from_its_own_strip(pairs):
    """Patches are embedded one by one at this size: nothing outside strip 2 of 4 can move its code."""
    model = lively(LatentActionConfig.debug())
    x = model.features(torch.from_numpy(pairs.pictures(np.arange(3))))
    grid = x.unflatten(2, model.config.features.grid_hw).clone()  # (B, 2, rows, 4 columns, D)
    grid[..., 2, :] += 1.0
    (before,), (after,) = (model.environment.inverse(v, None) for v in (x, grid.flatten(2, 3)))
    moved = (before - after).abs().amax((0, 1, 3))
    assert moved[2] > 1e-3
    assert moved[[0, 1, 3]].max() == 0


def test_a_local_code_pushes_its_own_strip_first(pairs):
    """Blocks without weight pass on what they are given: then code 1 changes the patches of strip 1
    and no others.
    """
    stage = lively(LatentActionConfig.debug()).environment
    for block in stage.decoder.blocks:
        for part in (block.attention.out, block.forward_part[-1]):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    x, codes = torch.randn(2, 8, 192), torch.randn(2, 4, stage.quantizer.config.dim)
    other = codes.clone()
    other[:, 1] += 1.0
    moved = (
        (stage.decoder(x, codes) - stage.decoder(x, other)).abs().amax((0, 2)).unflatten(0, (2, 4))
    )
    assert moved[:, 1].min() > 1e-4
    assert moved[:, [0, 2, 3]].max() == 0


@pytest.mark.parametrize(
    ("step", "share"), [(0, 1.0), (150, 0.5), (270, 0.1), (300, 0.0), (5000, 0.0)]
)
def test_the_share_of_unquantised_samples_falls_to_none(step, share):
    z = torch.randn(4000, 2, 3)
    made = Quantized(z + 10, torch.zeros(4000, 2, dtype=torch.int64), torch.zeros(()), z)
    torch.manual_seed(0)
    soft = (training.soften(made, step, 300) == z).all((1, 2)).float().mean()
    assert float(soft) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("kind", ["ema", "gradient", "fsq"])
def test_after_its_soft_start_stage_one_decodes_codes_only(pairs, kind, monkeypatch):
    """Whatever the kind of codebook: the step counts, not what a quantiser counts."""
    seen = []
    monkeypatch.setattr(
        training, "soften", lambda made, step, steps: seen.append((step, steps)) or made.values
    )
    code = QuantizerConfig(kind=kind)
    config = LatentActionConfig.debug(steps=4, soft_start=0.5, environment=code, ego=code)
    training.train_environment(LatentActionModel(config), pairs)
    assert seen == [(step, 2) for step in range(4)]


def test_a_run_killed_in_its_soft_start_resumes_to_the_same_model(records, tmp_path, monkeypatch):
    config = LatentActionConfig.debug(steps=8, soft_start=0.9, checkpoint_every=3)
    straight = training.train_latent_action_model(records, config)
    original, calls = training.environment_loss, []

    def killed(*args):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(training, "environment_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train_latent_action_model(records, config, checkpoint_dir=tmp_path)
    monkeypatch.setattr(training, "environment_loss", original)
    assert state_hash(
        training.train_latent_action_model(records, config, checkpoint_dir=tmp_path)
    ) == state_hash(straight)


def test_codes_are_dropped_only_where_geometry_does_not_show_the_trajectory():
    values, spared = torch.ones(1000, 4, 3), torch.arange(1000) < 500
    torch.manual_seed(0)
    kept = training.drop_codes(values, 0.5, spared)[:, 0, 0]
    assert kept[:500].min() == 1
    assert 0.4 < float(kept[500:].mean()) < 0.6


def test_codes_are_dropped_in_training_where_frames_are_not_compensated(pairs, monkeypatch):
    decoded = {}
    for name in ("default", "no_compensation"):
        model = lively(
            replace(preset(name, LatentActionConfig.debug()), code_dropout=0.5, soft_start=0.0)
        )
        batch = training._batch(pairs, np.arange(32), np.zeros(32, bool))
        predict = model.environment.predict
        monkeypatch.setattr(
            model.environment,
            "predict",
            lambda x, values, told, name=name, predict=predict: (
                decoded.update({name: values}) or predict(x, values, told)
            ),
        )
        torch.manual_seed(0)
        training.environment_loss(model, batch, step=1)
    silent = {
        name: float((values == 0).all(dim=(1, 2)).float().mean())
        for name, values in decoded.items()
    }
    assert silent["default"] == 0
    assert 0.2 < silent["no_compensation"] < 0.8


def test_the_motion_of_others_counts_by_its_weight_and_is_mirrored(pairs):
    known = replace(pairs, agents=np.tile([2.0, 3.0, 1.0, 0.5], (len(pairs), 1)))
    batch = training._batch(known, np.arange(8), np.arange(8) % 2 == 0)
    across = batch["agents"][:, AGENT_AXES.index("crossing")]
    assert torch.equal(torch.sign(across), torch.where(torch.arange(8) % 2 == 0, -1.0, 1.0))
    found = []
    for weight in (0.1, 0.4):
        torch.manual_seed(0)
        loss, numbers = training.environment_loss(
            lively(LatentActionConfig.debug(agent_weight=weight)), batch, step=1
        )
        found.append((float(loss.detach()), numbers["agents"]))
    assert found[0][1] == found[1][1] > 0.1
    assert found[1][0] - found[0][0] == pytest.approx(0.3 * found[0][1], rel=1e-3)


def test_transfer_reads_back_what_the_decoder_draws_with_the_codes_of_the_partner(pairs):
    model = lively(LatentActionConfig.debug())
    coded = code(model, pairs, 16, np.random.default_rng(0))
    x = model.features(torch.from_numpy(pairs.pictures(np.arange(len(pairs)))))
    ego, environment = model.ego.quantizer, model.environment.quantizer
    foreign = ego.lookup(torch.from_numpy(coded.ego[coded.partner]))
    with torch.no_grad():
        drawn = model.ego.decode(
            x[:, 0], foreign, environment.lookup(torch.from_numpy(coded.environment))
        )
        read = ego.nearest(model.ego.encode(torch.stack([x[:, 0], drawn], dim=1))[0]).numpy()
    assert (read == coded.transfer).mean() > 0.99  # batches of other sizes round differently
    assert (coded.transfer != coded.ego[coded.partner]).any()


def test_frames_are_compensated_for_the_whole_transition(pairs):
    model, index = lively(LatentActionConfig.debug()), np.flatnonzero(pairs.motion[:, 0] > 3)[:4]
    x, given = model.features(torch.from_numpy(pairs.pictures(index))), told(pairs, index)
    seen, _ = model.environment.look(x, given)
    assert torch.equal(seen[:, 1], x[:, 1])
    assert not torch.equal(seen[:, 0], x[:, 0])
    halfway = given._replace(waypoints=given.waypoints[:, :1].repeat(1, 2, 1))
    assert not torch.equal(model.environment.look(x, halfway)[0][:, 0], seen[:, 0])
    elsewhere = given._replace(
        waypoints=torch.stack([given.waypoints[:, 1], given.waypoints[:, 1]], dim=1)
    )
    torch.testing.assert_close(
        model.environment.look(x, elsewhere)[0][:, 0], seen[:, 0]
    )  # the last one counts


def test_what_stage_one_ignores_is_reported_as_zero(pairs):
    """Without compensation a fresh decoder copies, whatever it is told; with it, another trajectory
    is another picture.
    """
    torch.manual_seed(0)
    plain = stage_one_use(
        LatentActionModel(preset("no_compensation", LatentActionConfig.debug())).eval(), pairs
    )
    assert plain["trajectory_use"] == 0
    assert plain["compensated_share"] == 0
    shown = stage_one_use(LatentActionModel(LatentActionConfig.debug()).eval(), pairs)
    assert shown["trajectory_use"] > 0.05
    assert shown["compensated_share"] == 1
    assert np.isfinite(shown["environment_use"])
    model = lively(LatentActionConfig.debug())
    torch.nn.init.zeros_(model.environment.decoder.add_local.weight)
    assert stage_one_use(model, pairs)["environment_use"] == 0
    assert (
        stage_one_use(
            LatentActionModel(preset("single_stage", LatentActionConfig.debug())).eval(), pairs
        )
        == {}
    )


def test_without_calibration_another_trajectory_changes_nothing_in_a_fresh_model(pairs):
    unknown = replace(pairs, projections=np.full_like(pairs.projections, np.nan))
    torch.manual_seed(0)
    found = stage_one_use(LatentActionModel(LatentActionConfig.debug()).eval(), unknown)
    assert (found["trajectory_use"], found["compensated_share"]) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"environment_codes": 3}, "3 environment_codes cannot share 8 columns"),
        ({"environment_codes": 0}, "environment_codes is 0"),
        ({"env_source": "reencode"}, "set environment_sectors=False"),
        ({"conditioning": "none"}, "set compensate=False"),
        ({"soft_start": 1.0}, "soft_start is 1.0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        LatentActionConfig(**changes)


def test_a_single_stage_needs_no_trajectory_at_all():
    assert LatentActionConfig(env_source="none", conditioning="none").environment_positions == 0


def test_codes_that_say_nothing_have_no_advantage():
    """Not even over ego codes that are worse than nothing on other logs; codes that tell have one."""
    rng = np.random.default_rng(0)
    agents, logs = (
        rng.standard_normal((400, len(AGENT_AXES))),
        np.repeat([f"log-{i}" for i in range(8)], 50),
    )
    noise, silent = one_hot(rng.integers(0, 16, (400, 4)), 16), one_hot(np.zeros((400, 4), int), 16)
    telling = one_hot((agents[:, :4] > 0).astype(int), 16)

    def advantage(environment):
        sample = Sample(
            {"ego": noise, "environment": environment}, np.zeros((400, 3)), agents, logs
        )
        return agent_probes(sample, None)["agent_advantage"]

    assert advantage(silent) <= 0
    assert advantage(telling) > 0.4

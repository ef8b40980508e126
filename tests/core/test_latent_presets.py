"""Every named variant builds, trains, is saved and read back; single stage, conditioning and
continuous codes do what they say.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from latent_little_world import little_records

from latentvla_core.errors import DataError, SetupError
from latentvla_core.latent import train as training
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.model import LatentActionModel, load, save, state_hash
from latentvla_core.latent.pairs import collect_pairs
from latentvla_core.latent.presets import PRESETS, preset
from latentvla_core.latent.probes import HeldOut, evaluate
from latentvla_core.latent.quality import NOT_FINITE, QualityGate, judge
from latentvla_core.latent.quantizer import QuantizerConfig, build_quantizer
from latentvla_core.training.images import ImageCache
from latentvla_core.training.sinks import ListSink
from latentvla_core.viz.quality_page import QualityReport, quality_page

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
BUNDLES = {"faithful", "no_independence", "univla", "lapo_vq", "lapo_continuous"}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return little_records(tmp_path_factory.mktemp("presets"), logs=2, frames=16)


@pytest.fixture(scope="module")
def cache():
    return ImageCache(LatentActionConfig.debug().features.image_size_wh)


FOLLOWS = {
    "reencode": {
        "environment_sectors",
        "compensate",
    },  # stage 2's own encoder reads whole pictures, as they are
    "no_compensation_no_dropout": {"code_dropout"},
    "conditioning_token": {"compensate"},  # else geometry tells the trajectory all the same
    "conditioning_none": {"compensate"},
}


def flat(config):
    parts = {}
    for name, value in asdict(config).items():
        parts.update(
            {f"{name}.{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return parts


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_in_bf16_with_every_term(name, records, cache):
    """What `single_gpu` and `paper` do; statistics and codes stay in float32."""
    terms = {"cycle_weight": 0.2, "agent_weight": 0.1, "environment_dropout": 0.3}
    config = preset(name, LatentActionConfig.debug(precision="bf16", **terms))
    model = training.train_latent_action_model(records, config, cache=cache)
    kinds = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    assert kinds == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_and_comes_back_from_disk_unchanged(name, records, cache, tmp_path):
    config = preset(name, LatentActionConfig.debug())
    model = training.train_latent_action_model(records, config, cache=cache)
    again = load(save(model, tmp_path))
    assert again.config == config
    assert state_hash(again) == state_hash(model)
    pictures = torch.randint(0, 256, (3, 2, 16, 32, 3), dtype=torch.uint8)
    seen = model.features(pictures)
    z = model.ego.encode(seen)[0]
    assert torch.equal(z, again.ego.encode(seen)[0])
    assert z.shape == (3, config.codes_per_transition, config.ego.dim)


@pytest.mark.parametrize("name", sorted(set(PRESETS) - BUNDLES - {"default"}))
def test_a_preset_changes_one_idea_and_keeps_the_size(name):
    """What must change with the idea is no second one: see `FOLLOWS`."""
    for size in (
        LatentActionConfig.debug(cycle_weight=0.2),
        LatentActionConfig.paper(cycle_weight=0.2),
    ):
        before, after = flat(size), flat(preset(name, size))
        changed = {key.split(".")[-1] for key in before if before[key] != after[key]} - FOLLOWS.get(
            name, set()
        )
        assert len(changed) == 1, changed


def test_the_default_is_the_default_and_an_unknown_name_lists_the_known():
    assert preset("default") == LatentActionConfig.mini()
    with pytest.raises(SetupError, match="faithful.*univla.*lapo_vq"):
        preset("faithfull")


def losses(name, records, cache, stage, scale, **changes):
    """Loss of one stage at fresh weights with the trajectory scaled; the batch and all draws are
    the same.
    """
    config = replace(preset(name, LatentActionConfig.debug()), **changes)
    torch.manual_seed(1)
    model = LatentActionModel(config)
    for part in (model.ego, *([model.environment] if config.environment_positions else [])):
        torch.nn.init.normal_(
            part.decoder.out.weight, std=0.1
        )  # else it is the copy baseline, whatever it sees
    model.eval()
    pairs = collect_pairs(records, config.gap_frames, cache)
    given = training.environment_codes(model, pairs)
    batch = training._collate(pairs, config, given)(np.arange(6), np.random.default_rng(0))
    batch |= {"waypoints": batch["waypoints"] * scale, "states": batch["states"] * scale}
    torch.manual_seed(0)
    if stage == "environment":
        return training.environment_loss(model, batch, config.training.steps)[0].item()
    return training.ego_loss(model, batch)[0].item()


@pytest.mark.parametrize(
    ("conditioning", "told"), [("added", True), ("token", True), ("none", False)]
)
def test_stage_one_is_told_the_trajectory_only_where_the_config_says_so(
    records, cache, conditioning, told
):
    changes = {
        "conditioning": conditioning,
        "independence_weight": 0.0,
        "leak_weight": 0.0,
        "compensate": False,
    }
    found = [
        losses("default", records, cache, "environment", scale, **changes) for scale in (1.0, 3.0)
    ]
    assert (found[0] != found[1]) == told


def test_conditioning_by_tokens_alone_adds_nothing_to_the_decoder():
    models = {
        c: LatentActionModel(LatentActionConfig.debug(conditioning=c, compensate=False))
        for c in ("added", "token", "none")
    }
    assert models["added"].environment.decoder.add_condition is not None
    assert models["token"].environment.decoder.add_condition is None
    assert models["token"].environment.condition is not None
    assert models["none"].environment.condition is None


@pytest.mark.parametrize("name", ["lapo_vq", "lapo_continuous"])
def test_lapo_never_sees_a_trajectory_nor_trains_a_first_stage(records, cache, name):
    assert losses(name, records, cache, "ego", 1.0) == losses(name, records, cache, "ego", 3.0)
    sink = ListSink()
    config = preset(name, LatentActionConfig.debug())
    model = training.train_latent_action_model(records, config, cache=cache, sink=sink)
    assert all("stage2/loss" in row for _, row in sink.rows)
    assert not list(model.environment.parameters())


def test_a_single_stage_knows_the_motion_by_its_action_term_only(records, cache):
    assert losses("single_stage", records, cache, "ego", 1.0) != losses(
        "single_stage", records, cache, "ego", 3.0
    )
    without = [
        losses("single_stage", records, cache, "ego", s, action_weight=0.0) for s in (1.0, 3.0)
    ]
    assert without[0] == without[1]


def test_faithful_has_neither_term_and_trains_no_motion_head(records, cache):
    config = preset("faithful", LatentActionConfig.debug())
    sink = ListSink()
    torch.manual_seed(config.training.seed)
    fresh = LatentActionModel(config).ego.motion.state_dict()
    model = training.train_latent_action_model(records, config, cache=cache, sink=sink)
    assert not any(key.endswith(("/action", "/leak")) for _, row in sink.rows for key in row)
    assert torch.equal(model.ego.motion[2].bias, fresh["2.bias"])


def test_continuous_codes_are_the_encoder_outputs_and_make_no_labels():
    q = build_quantizer(
        QuantizerConfig(kind="continuous", code_dim=4, standardise=False), 3
    ).train()
    z = torch.randn(8, 3, 4, requires_grad=True)
    made = q(z)
    assert torch.equal(made.values, z)
    assert torch.equal(q.lookup(q.nearest(z)), z)
    assert float(made.loss) == 0
    (made.values * torch.arange(4.0)).sum().backward()
    torch.testing.assert_close(z.grad, torch.arange(4.0).expand(8, 3, 4))
    model = LatentActionModel(preset("lapo_continuous", LatentActionConfig.debug()))
    with pytest.raises(SetupError, match="no codes to label with"):
        model.codes(torch.zeros((1, 2, 16, 32, 3), dtype=torch.uint8))


@pytest.mark.parametrize("name", ["lapo_continuous", "single_stage"])
def test_probes_read_what_there_is_and_make_nothing_up(name, records, cache):
    model = LatentActionModel(preset(name, LatentActionConfig.debug()))
    fitted = [r for r in records if r.log_name == records[0].log_name]
    judged = [r for r in records if r.log_name != records[0].log_name]
    for probe_records in (None, fitted):
        report = evaluate(judged, model, cache=cache, probe_records=probe_records)
        assert not any(
            key.startswith(("environment", "mutual_information_environment")) for key in report
        )
        assert ("ego_perplexity" in report) == (name != "lapo_continuous")
        assert np.isfinite(
            [report["ego_r2_longitudinal"], report["shuffle_ego"], report["transfer_longitudinal"]]
        ).all()


def test_environment_codes_must_be_codes():
    with pytest.raises(ValueError, match=r"environment\.kind is 'continuous'"):
        LatentActionConfig(environment=QuantizerConfig(kind="continuous"))


def test_a_continuous_model_is_judged_by_what_it_has(records, cache):
    report = evaluate(
        records,
        LatentActionModel(preset("lapo_continuous", LatentActionConfig.debug())),
        cache=cache,
    )
    rows = {row.name: row for row in judge(report, QualityGate.mini())}
    assert rows[NOT_FINITE].value == 0
    assert "the model lacks that part" in rows["ego_usage"].line()
    codes = {"ego": np.zeros((5, 8, 16)), "environment": np.zeros((5, 0), int)}
    page = quality_page(
        QualityReport("v", "r", "", list(rows.values()), codes, {"ego": 16, "environment": 16}, {})
    )
    assert "ego codes</h3>" not in page


@pytest.mark.parametrize(("name", "lacks"), [("default", set()), ("faithful", {"environment_use"})])
def test_what_a_gate_asks_is_in_the_report(name, lacks, records, cache):
    report = evaluate(
        records, LatentActionModel(preset(name, LatentActionConfig.debug())), cache=cache
    )
    asked = {bound.name for bound in (*QualityGate.long().required, *QualityGate.long().targets)}
    assert (
        asked - set(report) == {NOT_FINITE, "agent_advantage"} | lacks
    )  # these drives have no boxes


def test_pictures_that_never_change_are_refused_before_training_and_before_judging(records):
    frozen = ImageCache(
        (32, 16), load=lambda root, path, size_wh: np.zeros((*size_wh[::-1], 3), np.uint8)
    )
    for judge_or_train in (
        lambda: training.train_latent_action_model(
            records, LatentActionConfig.debug(), cache=frozen
        ),
        lambda: evaluate(records, LatentActionModel(LatentActionConfig.debug()), cache=frozen),
        lambda: HeldOut.of(records, None, 2, frozen),
    ):
        with pytest.raises(DataError, match="no picture changes"):
            judge_or_train()

"""Figures of held-out logs while a model is trained: those of the report, in time, and without
touching the training.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from latent_little_world import little_records

from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.model import state_hash
from latentvla_core.latent.pairs import collect_pairs
from latentvla_core.latent.presets import preset
from latentvla_core.latent.probes import HeldOut, report_on, report_on_stage_one
from latentvla_core.latent.probes.held_out import spread_over_logs
from latentvla_core.latent.quality_watch import CollapsedError, QualityWatch
from latentvla_core.latent.train import finished_steps, train_latent_action_model
from latentvla_core.training.config import with_training
from latentvla_core.training.images import ImageCache
from latentvla_core.training.sinks import FileSink, ListSink, Tee, read_curves

CONFIG = LatentActionConfig.debug(steps=4, quality_every=2)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return little_records(tmp_path_factory.mktemp("train"), logs=3, frames=20)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory, records):
    others = little_records(tmp_path_factory.mktemp("val"), logs=4, frames=20, seed=70)
    others = [replace(r, log_name=f"val-{r.log_name}") for r in others]
    return HeldOut.of(others, records, CONFIG.gap_frames, ImageCache(CONFIG.features.image_size_wh))


def streamed(sink: ListSink, stage: str) -> dict[int, dict[str, float]]:
    head = f"{stage}/quality/"
    rows = {
        step: {n.removeprefix(head): v for n, v in row.items() if n.startswith(head)}
        for step, row in sink.rows
    }
    return {step: figures for step, figures in rows.items() if figures}


def test_what_streams_is_the_report_and_training_is_not_touched(records, held_out):
    sink = ListSink()
    model = train_latent_action_model(records, CONFIG, sink=sink, measure=held_out.report)
    assert list(streamed(sink, "stage1")) == [2, 4]
    assert list(streamed(sink, "stage2")) == [6, 8]
    assert streamed(sink, "stage1")[4] == pytest.approx(held_out.report(model, 1), abs=1e-5)
    assert streamed(sink, "stage2")[8] == pytest.approx(held_out.report(model, 2), abs=1e-5)
    assert streamed(sink, "stage2")[6] != streamed(sink, "stage2")[8]
    assert state_hash(model) == state_hash(train_latent_action_model(records, CONFIG))


def test_stage_one_tells_what_only_it_can_and_both_stages_the_whole_report(records, held_out):
    model = train_latent_action_model(records, CONFIG)
    first, whole = held_out.report(model, 1), held_out.report(model, 2)
    assert {
        "trajectory_use",
        "environment_use",
        "environment_perplexity",
        "environment_r2_yaw",
    } <= first.keys()
    assert not any("ego" in name or "transfer" in name for name in first)
    assert {
        "transfer_longitudinal",
        "shuffle_ego",
        "mutual_information_yaw",
        "ego_r2_longitudinal",
    } <= whole.keys()
    assert {name: whole[name] for name in first} == pytest.approx(
        first, abs=1e-5
    )  # the frozen stage says the same later


def test_stage_one_is_looked_at_by_its_own_codes_also_where_stage_two_encodes_again(
    records, held_out
):
    sink, config = ListSink(), preset("reencode", CONFIG)
    model = train_latent_action_model(records, config, sink=sink, measure=held_out.report)
    assert streamed(sink, "stage1")[4] == pytest.approx(held_out.report(model, 1), abs=1e-5)
    assert (
        held_out.report(model, 1)["environment_perplexity"]
        != held_out.report(model, 2)["environment_perplexity"]
    )


def test_a_resumed_run_may_look_more_often(records, held_out, tmp_path):
    train_latent_action_model(records, CONFIG, checkpoint_dir=tmp_path)
    again = replace(CONFIG, quality_every=1)
    assert (
        train_latent_action_model(
            records, again, checkpoint_dir=tmp_path, measure=held_out.report
        ).config
        == again
    )


def test_a_single_stage_streams_without_environment_codes(records, held_out):
    sink = ListSink()
    train_latent_action_model(
        records, preset("single_stage", CONFIG), sink=sink, measure=held_out.report
    )
    assert streamed(sink, "stage1") == {}
    assert not any(name.startswith("environment_") for name in streamed(sink, "stage2")[8])


def test_figures_that_a_sample_cannot_tell_are_left_out(records, held_out):
    model = train_latent_action_model(records, CONFIG)
    straight = replace(held_out.judged, waypoints=held_out.judged.waypoints * np.float32([1, 1, 0]))
    for measure, stage in ((report_on_stage_one, 1), (report_on, 2)):
        assert np.isnan(measure(model, straight, held_out.fitted)["environment_r2_yaw"])
        assert "environment_r2_yaw" not in HeldOut(straight, held_out.fitted).report(model, stage)


def test_a_sample_takes_one_scene_of_every_log_before_a_second_of_any(records):
    many = [r for r in records for _ in range(3)]
    logs = Counter(r.log_name for r in spread_over_logs(many, 7))
    assert sorted(logs.values()) == [2, 2, 3]
    assert spread_over_logs(many, 7) == spread_over_logs(many, 7)
    assert spread_over_logs(records, 10_000) == records


def test_a_sample_is_of_current_frames(records):
    pairs = collect_pairs(records, 2, ImageCache(CONFIG.features.image_size_wh), current_only=True)
    whole = collect_pairs(records, 2, pairs.cache)
    assert len(pairs) == len({r.front_paths[r.num_history - 1] for r in records}) < len(whole)
    np.testing.assert_allclose(pairs.states[0], whole.states[records[0].num_history - 1], atol=1e-6)
    assert pairs.cache.images.shape[0] == len(whole.cache)


def test_a_trajectory_that_is_not_used_stops_stage_one(records, held_out):
    config = preset("conditioning_none", replace(with_training(CONFIG, steps=8), quality_every=1))
    with pytest.raises(
        CollapsedError,
        match=r"step 5: stage1/quality/trajectory_use is 0(.|\n)*Try: (.|\n)*conditioning 'added'",
    ):
        train_latent_action_model(records, config, sink=QualityWatch(), measure=held_out.report)


def test_however_often_it_is_begun_again_it_is_stopped(records, held_out, tmp_path):
    config = preset(
        "conditioning_none",
        replace(with_training(CONFIG, steps=20, checkpoint_every=2, log_every=1), quality_every=4),
    )
    curves, run = tmp_path / "curves.jsonl", tmp_path / "run"
    for began_at in (0, 14, 14):
        assert finished_steps(run, config) == began_at
        sink = Tee(FileSink(curves), QualityWatch(before=read_curves(curves, until=began_at)))
        with pytest.raises(CollapsedError, match="step 16: stage1/quality/trajectory_use is 0"):
            train_latent_action_model(
                records, config, sink=sink, measure=held_out.report, checkpoint_dir=run
            )


def test_finished_steps_count_over_both_stages(records, tmp_path):
    config = with_training(CONFIG, steps=4, checkpoint_every=2)
    train_latent_action_model(records, config, checkpoint_dir=tmp_path)
    assert finished_steps(tmp_path, config) == 8
    shutil.rmtree(tmp_path / "stage2" / "step_00000004")
    assert finished_steps(tmp_path, config) == 6
    shutil.rmtree(tmp_path / "stage2")
    assert finished_steps(tmp_path, config) == 4

"""Parts of the study by hand: losses, decoders, what scorers are told, situations, scenes as arrays,
and what is kept in a folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pdms_little_worlds import CONE, straight_plan, straight_road, with_object
from planner_factory import make_record

from latentvla_core.errors import SetupError
from latentvla_core.evidence import prepare
from latentvla_core.evidence.config import EvidenceConfig, Part
from latentvla_core.evidence.eye import EyeConfig, principal
from latentvla_core.evidence.menu import (
    PATH_NUMBERS,
    SUB_SCORES,
    MenuConfig,
    Proposer,
    Scorer,
    Standard,
    composed,
    mlp,
    scaled,
    unscaled,
)
from latentvla_core.evidence.prepare import gather, kept, sights_of
from latentvla_core.evidence.scenes import EGO_NUMBERS, Scenes, scenes_of
from latentvla_core.evidence.scores import earlier_scenes
from latentvla_core.evidence.situations import EYES, SITUATIONS, has_lead, someone_enters
from latentvla_core.evidence.study import straight_on
from latentvla_core.evidence.teacher import (
    Decoder,
    answer_loss,
    metres,
    nearest_word,
    one_hot,
    probabilities,
    scene_losses,
    word_decoder,
)
from latentvla_core.evidence.told import Quality, accuracy_of, judge, marginal
from latentvla_core.statistics import Interval
from latentvla_core.types import ObjectClass

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


# ---- answers and their losses


def test_networks_speak_in_units_that_are_undone():
    path = torch.tensor([[[10.0, 3.0, 0.3]] * 8])
    assert scaled(path).allclose(torch.ones_like(path))
    assert unscaled(scaled(path)).allclose(path)
    np.testing.assert_allclose(metres(np.ones((1, PATH_NUMBERS), np.float32)), path.numpy())


def test_codes_as_one_hot_numbers_have_a_one_for_each_token():
    found = one_hot(np.array([[3, *[0] * 11]]))
    assert found.shape == (1, 192) and found.sum() == 12
    assert found[0, 3] == 1 and found[0, 16] == 1 and found[0, 0] == 0


@pytest.mark.parametrize("answer", ["codes", "words", "path"])
def test_the_mean_of_scene_losses_is_the_loss(answer):
    raw = numbers(5, 192 if answer == "codes" else 24)
    shape = (5, 12) if answer == "codes" else (5,)
    target = numbers(5, 24) if answer == "path" else RNG.integers(0, 16, shape)
    each = scene_losses(answer, raw, target)
    whole = answer_loss(answer, torch.from_numpy(raw), torch.from_numpy(target))
    assert each.shape == (5,)
    assert each.mean() == pytest.approx(float(whole), rel=1e-5)


def test_losses_of_somebody_who_knows_nothing_are_those_of_a_die():
    codes = np.zeros((1, 12), np.int64)
    assert scene_losses("codes", np.zeros((1, 192), np.float32), codes)[0] == pytest.approx(
        np.log(16), rel=1e-5
    )
    words = scene_losses("words", np.zeros((1, 256), np.float32), np.zeros(1, np.int64))
    assert words[0] == pytest.approx(np.log(256), rel=1e-5)
    path = scene_losses("path", np.zeros((1, 24), np.float32), np.full((1, 24), 2.0, np.float32))
    assert path[0] == 2.0


def test_distributions_sum_to_one_for_each_token_and_a_path_is_itself():
    raw = torch.from_numpy(numbers(2, 192))
    codes = probabilities("codes", raw).unflatten(-1, (12, 16))
    assert codes.sum(-1).allclose(torch.ones(2, 12))
    assert probabilities("words", raw).sum(-1).allclose(torch.ones(2))
    assert probabilities("path", raw) is raw


def test_a_decoder_gives_the_mean_motion_and_a_path_is_no_answer_to_decode():
    words = Decoder("words", np.stack([np.zeros(24), np.ones(24)]).astype(np.float32), np.zeros(24))
    assert words.outputs == 2
    np.testing.assert_allclose(words.path(np.array([[0.25, 0.75]])), np.full((1, 24), 0.75))
    path = Decoder("path", np.zeros(0), np.zeros(0))
    own = numbers(3, 24)
    assert path.outputs == 24 and path.path(own) is own


def test_fewer_paths_than_words_are_each_their_own_word():
    paths = np.zeros((3, 8, 3), np.float32)
    paths[:, :, 0] = np.array([1.0, 5.0, 9.0])[:, None]
    decoder = word_decoder(paths, words=256)
    assert decoder.weights.shape == (3, 24)
    flat = scaled(torch.from_numpy(paths)).flatten(1).numpy()
    assert len(set(nearest_word(flat, decoder.weights).tolist())) == 3


# ---- what teachers know


def test_the_marginal_is_the_answer_that_fits_training_best():
    codes = np.zeros((8, 12), np.int64)
    codes[:2, 0] = 5
    raw = marginal("codes", codes, 192).reshape(12, 16)
    assert raw[0].argmax() == 0
    np.testing.assert_allclose(np.exp(raw[0, [0, 5, 1]]), np.array([6.5, 2.5, 0.5]) / 16, rtol=1e-5)
    words = np.exp(marginal("words", np.array([2, 2, 0]), 4))
    np.testing.assert_allclose(words, np.array([1.5, 0.5, 2.5, 0.5]) / 5, rtol=1e-5)
    paths = np.array([[0.0] * 24, [1.0] * 24, [50.0] * 24], np.float32)
    assert (marginal("path", paths, 24) == 1.0).all()  # L1 is least at the median


def test_accuracy_counts_tokens_and_a_path_has_none():
    codes = np.zeros((2, 12), np.int64)
    raw = one_hot(codes)
    raw[0, :16] = np.eye(16)[7]
    assert accuracy_of("codes", raw, codes) == pytest.approx(23 / 24)
    assert accuracy_of("words", np.eye(4)[[1, 2]], np.array([1, 3])) == 0.5
    assert np.isnan(accuracy_of("path", numbers(1, 24), numbers(1, 24)))


def quality(loss: float, blind: float) -> Quality:
    gain = Interval(blind - loss, 0.0, 1.0, 4, 2)
    return Quality("t", loss, blind, 2.0, 0.5, 0.25, 0.1, gain=gain)


def test_a_teacher_that_knows_as_much_as_its_blind_branch_is_not_handed_on():
    assert quality(1.0, 1.1).is_handed_on
    assert not quality(1.0, 1.0).is_handed_on
    assert not quality(1.0, 0.9).is_handed_on


def test_a_gain_is_paired_by_log_and_beside_the_marginal():
    codes = np.zeros((4, 12), np.int64)
    raw, blind = 5.0 * one_hot(codes), np.zeros((4, 192), np.float32)
    found = judge("t", "codes", (raw, blind), codes, codes, np.array(list("aabb")))
    assert found.accuracy == 1.0 and found.marginal_accuracy == 1.0
    assert found.blind_loss == pytest.approx(np.log(16), rel=1e-5)
    assert found.gain.mean == pytest.approx(found.blind_loss - found.loss, rel=1e-5)
    assert found.gain.groups == 2 and found.gain.low > 0
    assert found.marginal_loss == pytest.approx(-np.log(4.5 / 12), rel=1e-5)


# ---- menu


def test_columns_are_standardised_and_one_that_never_changes_says_nothing():
    rows = torch.tensor([[0.0, 7.0], [2.0, 7.0], [4.0, 7.0]])
    found = Standard(rows)(torch.tensor([[4.0, 8.0], [900.0, 7.0]]))
    assert found.tolist() == [[1.0, 0.0], [5.0, 0.0]]  # far away is cut


@pytest.mark.parametrize(("dropout", "layers"), [(0.0, 3), (0.5, 4)])
def test_an_mlp_ends_in_a_linear_layer(dropout: float, layers: int):
    made = mlp(4, 8, 2, dropout=dropout)
    assert len(made) == layers
    assert isinstance(made[-1], torch.nn.Linear) and made[-1].out_features == 2


def test_the_expected_score_is_the_formula_of_pdms():
    sure = torch.full((1, 5), 40.0)
    assert float(composed(sure)) == pytest.approx(1.0)
    for name, expected in (
        ("no_at_fault_collisions", 0.0),
        ("drivable_area_compliance", 0.0),
        ("ego_progress", 7 / 12),
        ("time_to_collision_within_bound", 7 / 12),
        ("comfort", 10 / 12),
    ):
        logits = sure.clone()
        logits[0, SUB_SCORES.index(name)] = -40.0
        assert float(composed(logits)) == pytest.approx(expected, abs=1e-6), name


def test_networks_of_the_menu_have_the_shapes_they_say():
    config = MenuConfig(width=8, neck=4)
    ego = torch.from_numpy(numbers(6, EGO_NUMBERS))
    told = {"codes": torch.from_numpy(numbers(6, 24)), "seen": torch.from_numpy(numbers(6, 50))}
    plans = Proposer(ego, proposals=3, width=8)(ego)
    assert plans.shape == (6, 3, 8, 3)
    scorer = Scorer(ego, told, config).eval()
    assert scorer(ego, plans, told).shape == (6, 3, 5)
    other = scorer(ego, plans, told | {"codes": told["codes"] + 1})
    assert not other.allclose(scorer(ego, plans, told))


def test_only_sources_that_are_no_motion_are_dropped_in_training():
    torch.manual_seed(0)
    ego = torch.from_numpy(numbers(4, EGO_NUMBERS))
    plans = torch.zeros(4, 2, 8, 3)
    for width, same in ((PATH_NUMBERS, True), (PATH_NUMBERS + 1, False)):
        told = {"source": torch.from_numpy(numbers(4, width))}
        scorer = Scorer(ego, told, MenuConfig(width=8, neck=4)).train()
        one, two = scorer(ego, plans, told), scorer(ego, plans, told)
        assert one.allclose(two) == same, width


# ---- situations


def record(tmp_path: Path, **change):
    return replace(make_record(tmp_path, 1, np.random.default_rng(0)), **change)


def test_eyes_are_needed_in_some_of_the_situations():
    assert set(EYES) < set(SITUATIONS) and "cruise" not in EYES


@pytest.mark.parametrize(
    ("x", "y", "kind", "leads"),
    [
        (10.0, 0.0, ObjectClass.VEHICLE, True),
        (24.0, 1.5, ObjectClass.VEHICLE, True),
        (26.0, 0.0, ObjectClass.VEHICLE, False),
        (10.0, 3.5, ObjectClass.VEHICLE, False),
        (-10.0, 0.0, ObjectClass.VEHICLE, False),
        (10.0, 0.0, ObjectClass.PEDESTRIAN, False),
    ],
)
def test_a_lead_is_a_vehicle_ahead_in_the_own_lane(tmp_path: Path, x, y, kind, leads):
    boxes = np.array([[x, y, 0.8, 4.6, 1.9, 1.6, 0.0]])
    found = record(tmp_path, object_boxes=boxes, object_classes=np.array([kind], np.int8))
    assert has_lead(found) == leads


def test_nobody_leads_on_an_empty_road(tmp_path: Path):
    empty = record(tmp_path, object_boxes=np.zeros((0, 7)), object_classes=np.zeros(0, np.int8))
    assert not has_lead(empty)


STRAIGHT = straight_plan(8.0)


@pytest.mark.parametrize(
    ("at", "velocity", "enters"),
    [
        ((20.0, 4.0), (0.0, -2.0), True),  # crosses from the left
        ((20.0, 4.0), (8.0, 0.0), False),  # drives beside
        ((20.0, 0.0), (8.0, 0.0), False),  # is on the path now: leads
        ((-10.0, 4.0), (0.0, -2.0), False),  # comes in behind
        ((-4.0, 4.0), (12.0, -1.2), False),  # overtakes: was not ahead
        ((44.0, 4.0), (0.0, -2.0), True),  # where the path goes on after 4 s
        ((70.0, 4.0), (0.0, -2.0), False),  # too far to yield to
    ],
)
def test_somebody_enters_who_comes_from_beside_onto_the_path_ahead(at, velocity, enters):
    assert someone_enters(STRAIGHT, with_object(straight_road(), at, velocity)) == enters


def test_cones_do_not_cross_and_worlds_that_are_not_valid_tell_nothing():
    cone = with_object(
        straight_road(), (20.0, 4.0), (0.0, -2.0), size=CONE, kind=ObjectClass.TRAFFIC_CONE
    )
    assert not someone_enters(STRAIGHT, cone)
    crossing = with_object(straight_road(), (20.0, 4.0), (0.0, -2.0))
    assert not someone_enters(STRAIGHT, replace(crossing, valid=False, reason="no map"))
    assert not someone_enters(STRAIGHT, straight_road())


# ---- scenes


def whole(tmp_path: Path, token: str = "s", log: str = "log"):
    history = np.arange(12.0).reshape(4, 3) * -1
    return record(
        tmp_path,
        scene_token=token,
        log_name=log,
        history_poses=history[::-1].copy(),
        future_poses=np.arange(30.0).reshape(10, 3),
        front_paths=tuple(f"{token}/{k}.jpg" for k in range(14)),
    )


def test_a_scene_is_its_ego_its_path_and_two_pictures_a_second_apart(tmp_path: Path):
    found = scenes_of([whole(tmp_path)], ["cruise"], "val")
    assert found.ego.shape == (1, EGO_NUMBERS) and found.path.shape == (1, 8, 3)
    assert found.path[0, 7].tolist() == [21.0, 22.0, 23.0]
    assert found.pictures.tolist() == [["s/3.jpg", "s/1.jpg"]]
    assert (found.roles.tolist(), found.situations.tolist()) == (["val"], ["cruise"])
    np.testing.assert_array_equal(found.ego[0, 8:11], [-9.0, -10.0, -11.0])


@pytest.mark.parametrize(("history", "future"), [(3, 10), (4, 7)])
def test_a_scene_too_short_to_learn_from_is_named(tmp_path: Path, history: int, future: int):
    short = replace(
        whole(tmp_path, "short"),
        history_poses=np.zeros((history, 3)),
        future_poses=np.zeros((future, 3)),
    )
    with pytest.raises(SetupError, match=r"scene short \(and 0 more\) has less than 1.5 s"):
        scenes_of([whole(tmp_path), short], ["cruise"] * 2, "val")


def test_scenes_are_taken_and_joined_column_by_column(tmp_path: Path):
    one = scenes_of([whole(tmp_path, t) for t in "abc"], ["start", "stop", "turn"], "val")
    two = scenes_of([whole(tmp_path, "d")], ["bend"], "test")
    both = Scenes.concat([one, two])
    assert both.of_role("test").tolist() == [3] and len(both) == 4
    picked = both.take(np.array([3, 0]))
    assert picked.tokens.tolist() == ["d", "a"] and picked.situations.tolist() == ["bend", "start"]


def test_a_log_without_a_single_scene_leaves_the_others_as_they_are(tmp_path: Path):
    none = scenes_of([], [], "test")
    assert len(none) == 0
    both = Scenes.concat([none, scenes_of([whole(tmp_path)], ["cruise"], "val")])
    assert len(both) == 1 and both.of_role("test").size == 0 and both.ego.dtype == np.float32


def test_scenes_without_a_world_are_left_out_of_the_material(tmp_path: Path):
    a, b = whole(tmp_path, "a", "log a"), whole(tmp_path, "b", "log b")
    made = gather({"val": [a], "test": [b]}, {"val": [straight_road()], "test": [None]})
    assert made.scenes.tokens.tolist() == ["a"] and len(made.worlds) == len(made.records) == 1
    with pytest.raises(SetupError, match="log a is val and test"):
        gather({"val": [a], "test": [a]}, {"val": [None], "test": [None]})


def test_a_pair_needs_the_scene_before_among_the_wanted_and_before_it():
    worlds = [straight_road(token=t) for t in "abc"]
    worlds[1] = replace(worlds[1], previous_token="a")
    worlds[2] = replace(worlds[2], previous_token="b")
    assert earlier_scenes(worlds, np.array([True] * 3)).tolist() == [-1, 0, 1]
    assert earlier_scenes(worlds, np.array([True, False, True])).tolist() == [-1, -1, -1]
    assert earlier_scenes(worlds[::-1], np.array([True] * 3)).tolist() == [-1, -1, -1]


def test_straight_on_keeps_the_speed_whatever_its_direction():
    ego = np.zeros((1, EGO_NUMBERS), np.float32)
    ego[0, 4:6] = 3.0, 4.0
    found = straight_on(ego)
    np.testing.assert_allclose(found[0, :, 0], 5.0 * 0.5 * np.arange(1, 9))
    assert (found[0, :, 1:] == 0).all()


# ---- what is kept


def test_arrays_are_made_once_and_a_run_that_was_cut_leaves_nothing(tmp_path: Path):
    calls = []

    def make() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"a": np.arange(3), "text": np.array("ä")}

    path = tmp_path / "new" / "kept.npz"
    for _ in range(2):
        found = kept(path, make)
        assert found["a"].tolist() == [0, 1, 2] and str(found["text"]) == "ä"
    assert len(calls) == 1

    def cut() -> dict[str, np.ndarray]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "other.npz", cut)
    assert [p.name for p in path.parent.iterdir()] == ["kept.npz"]
    assert not (tmp_path / "other.npz").exists()


def test_what_is_seen_of_a_scene_is_both_pictures_and_the_student_sees_less():
    features = numbers(3, 70)
    looked = {"features": features, "rows": np.array([[0, 2], [1, 1]]), "black": features[0]}
    found = sights_of(looked, np.zeros((2, 12), np.int8))
    np.testing.assert_array_equal(found.seen[0], np.concatenate([features[0], features[2]]))
    np.testing.assert_array_equal(found.small, features[:2, : prepare.STUDENT_DIM])
    assert found.black.shape == (140,) and found.codes.dtype == np.int64


def test_principal_axes_find_the_direction_of_most_spread():
    rows = torch.zeros(50, 3)
    rows[:, 1] = torch.linspace(-4, 4, 50) + 7
    mean, axes, first = principal(rows, 1, seed=0)
    assert mean.tolist() == pytest.approx([0, 7, 0], abs=1e-5)
    assert abs(float(axes[1, 0])) == pytest.approx(1.0, abs=1e-4)
    assert first == pytest.approx(float(rows[:, 1].std()), rel=1e-3)
    assert EyeConfig(whole=3, middle=2).dim == 5


# ---- configurations


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1.0), (0.5, 0.5), (0.2, 1.1), (0.9, 0.1)])
def test_a_part_that_is_none_says_its_bounds(low: float, high: float):
    with pytest.raises(ValueError, match=f"part {low} to {high}; need 0 <= low < high <= 1"):
        Part(split="train", low=low, high=high)


def test_towns_play_a_role_only_when_they_are_given():
    config = EvidenceConfig.debug()
    assert list(config.roles) == ["unlabelled", "labelled", "val", "test"]
    towns = replace(config, test_towns=Part(split="towns"))
    assert list(towns.roles) == [*config.roles, "test_towns"]
    own, labelled = config.roles["unlabelled"], config.roles["labelled"]
    assert own.split == labelled.split and own.high <= labelled.low  # one split, no log in both

"""The study: arms differ in what they are told, and nothing that knows the answer gets in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from latentvla_core.errors import SetupError
from latentvla_core.evidence import scenes as scenes_module
from latentvla_core.evidence import study
from latentvla_core.evidence.menu import MenuConfig, choose, train_proposer, train_scorer
from latentvla_core.evidence.scenes import Scenes, check_disjoint, labelled_rows
from latentvla_core.evidence.scores import MenuScores
from latentvla_core.evidence.situations import SITUATIONS
from latentvla_core.evidence.study import Menu
from latentvla_core.evidence.teacher import (
    Decoder,
    TeacherConfig,
    code_decoder,
    flat_paths,
    nearest_word,
    new_teacher,
    one_hot,
    raw_answers,
    scene_losses,
    train_student,
    train_teacher,
    word_decoder,
)
from latentvla_core.evidence.told import Sights, Told, judge, tell
from latentvla_core.evidence.variants import COMPARISONS, VARIANTS, variant
from latentvla_core.training.config import with_training

pytestmark = pytest.mark.slow

SEEN = 6
CODES = Decoder("codes", np.zeros((192, 24), np.float32), np.zeros(24, np.float32))
SHORT = with_training(
    TeacherConfig(width=16, eye_width=8, blind_steps=20, blind_weight_decay=0.003, dropout=0.1),
    steps=250,
    learning_rate=1e-2,
    weight_decay=0.03,
    warmup_steps=2,
)
FEW = with_training(
    MenuConfig(proposals=4, proposer_width=32, proposer_steps=150, width=32, neck=4),
    steps=300,
    weight_decay=0.01,
    warmup_steps=15,
)


def little_scenes(per_role: int = 80, seed: int = 0) -> tuple[Scenes, np.ndarray, np.ndarray]:
    """Scenes in which a car goes straight on, fast or slowly; which of the two, only the first
    number of the pictures says. Returns scenes, pictures (N, 6) and codes (N, 12) of the speed.
    """
    rng = np.random.default_rng(seed)
    count = per_role * len(scenes_module.ROLES)
    roles = np.repeat(scenes_module.ROLES, per_role)
    fast = rng.integers(0, 2, count)
    ego = rng.normal(size=(count, 17)).astype(np.float32)
    path = np.zeros((count, 8, 3), np.float32)
    path[..., 0] = np.arange(1, 9) * np.where(fast, 5.0, 1.0)[:, None]
    seen = rng.normal(size=(count, SEEN)).astype(np.float32)
    seen[:, 0] = 2.0 * fast - 1
    codes = np.repeat(fast[:, None] * 3, 12, 1).astype(np.int64)
    logs = np.array(
        [f"{role}-{i // 8:03d}" for role in scenes_module.ROLES for i in range(per_role)]
    )
    made = Scenes(
        np.array([f"s{i}" for i in range(count)]),
        logs,
        roles,
        ego,
        path,
        np.full((count, 2), "x.jpg"),
        np.array([SITUATIONS[i % len(SITUATIONS)] for i in range(count)]),
    )
    return made, seen, codes


def test_a_log_that_serves_two_roles_is_refused():
    check_disjoint({"labelled": ["a", "b"], "test": ["c"]})
    with pytest.raises(SetupError, match="a is labelled and test"):
        check_disjoint({"labelled": ["a", "b"], "test": ["a"]})


def test_smaller_labelled_sets_are_parts_of_larger_ones():
    made, _, _ = little_scenes()
    few, many = labelled_rows(made, 2), labelled_rows(made, 7)
    assert set(few) < set(many)
    assert set(made.roles[many]) == {"labelled"}
    with pytest.raises(SetupError, match="there are 10"):
        labelled_rows(made, 11)


def test_every_comparison_names_arms_that_exist():
    for a, b, _ in COMPARISONS:
        assert {a, b} <= set(VARIANTS)
    with pytest.raises(SetupError, match="seeing"):
        variant("nobody")


def test_a_teacher_begins_as_its_blind_branch():
    made, seen, _ = little_scenes()
    model = new_teacher(made.ego, SEEN, 192, SHORT)
    assert np.array_equal(raw_answers(model, made.ego, seen), raw_answers(model, made.ego, None))


def test_a_teacher_that_sees_beats_its_blind_branch_and_a_shuffled_one_does_not():
    made, seen, codes = little_scenes()
    free, val = made.of_role("unlabelled"), made.of_role("val")
    model = train_teacher(CODES, made.ego[free], seen[free], codes[free], SHORT)
    raw, blind = (
        raw_answers(model, made.ego[val], seen[val]),
        raw_answers(model, made.ego[val], None),
    )
    told = judge("t", "codes", (raw, blind), codes[val], codes[free], made.logs[val])
    assert told.is_handed_on
    assert told.accuracy > told.blind_accuracy + 0.2
    other = np.random.default_rng(1).permutation(free)
    lost = train_teacher(CODES, made.ego[free], seen[free], codes[other], SHORT)
    raw_lost = raw_answers(lost, made.ego[val], seen[val])
    assert scene_losses("codes", raw_lost, codes[val]).mean() > told.loss + 0.1


def test_decoded_codes_are_the_mean_motion_of_their_distribution():
    made, _, codes = little_scenes()
    decoder = code_decoder(codes, made.path, ridge=1e-3)
    sure = decoder.path(one_hot(codes))
    assert np.abs(sure - flat_paths(made.path)).max() < 0.05
    half = decoder.path(0.5 * one_hot(codes[:1]) + 0.5 * one_hot(3 - codes[:1]))
    both = (decoder.path(one_hot(codes[:1])) + decoder.path(one_hot(3 - codes[:1]))) / 2
    assert np.allclose(half, both, atol=1e-4)


def test_words_are_whole_paths():
    made, _, _ = little_scenes()
    decoder = word_decoder(made.path, words=2, seed=1)
    words = nearest_word(flat_paths(made.path), decoder.weights)
    assert np.abs(decoder.weights[words] - flat_paths(made.path)).max() < 0.05


def test_a_student_learns_from_its_teacher_on_what_nobody_labelled():
    """With labels of other scenes, only the teacher's distribution says what is right."""
    made, seen, codes = little_scenes()
    free, val = made.of_role("unlabelled"), made.of_role("val")
    wrong = codes[np.random.default_rng(2).permutation(free)]
    taught = 8.0 * one_hot(codes[free])
    pupil = train_student(made.ego[free], seen[free], wrong, SHORT, taught)
    alone = train_student(made.ego[free], seen[free], wrong, SHORT, None)
    losses = [
        scene_losses("codes", raw_answers(m, made.ego[val], seen[val]), codes[val]).mean()
        for m in (pupil, alone)
    ]
    assert losses[0] < losses[1] - 0.2


def test_a_scorer_uses_what_it_is_told():
    made, seen, _ = little_scenes()
    rows, test = made.of_role("labelled"), made.of_role("test")
    proposer = train_proposer(made.ego[rows], made.path[rows], FEW, 2)
    assert proposer.proposals == 2
    plans = np.stack([np.full_like(made.path, 1.0), np.full_like(made.path, 5.0)], 1)
    right = (seen[:, 0] > 0).astype(int)
    scores = np.zeros((len(made), 2, 5), np.float32)
    scores[np.arange(len(made)), right] = 1.0
    told = {"pictures": seen[rows]}
    sees = train_scorer(made.ego[rows], plans[rows], scores[rows], told, FEW)
    blind = train_scorer(made.ego[rows], plans[rows], scores[rows], {}, FEW)
    chosen = choose(sees, made.ego[test], plans[test], {"pictures": seen[test]})
    guessed = choose(blind, made.ego[test], plans[test], {})
    assert (chosen == right[test]).mean() > (guessed == right[test]).mean() + 0.2


def test_sources_of_a_seed_are_trained_on_unlabelled_logs_alone():
    """Futures of every other role may be anything: no source but the oracles changes."""
    made, seen, codes = little_scenes(40)
    tiny = with_training(replace(SHORT, blind_steps=10), steps=10)
    sights = Sights(seen, seen[:, :3].copy(), np.zeros(SEEN, np.float32), codes)
    other = made.roles != "unlabelled"
    path, changed = made.path.copy(), codes.copy()
    path[other] += 9.0
    changed[other] = 7
    first = tell(made, sights, tiny)
    second = tell(replace(made, path=path), replace(sights, codes=changed), tiny)
    same = {n for n in first.sources if np.array_equal(first.sources[n], second.sources[n])}
    assert set(first.sources) - same == {"oracle", "oracle_path"}
    told_by_variants = {s for v in VARIANTS.values() for s in v.told}
    assert told_by_variants <= set(first.sources)


def test_an_arm_whose_teacher_is_missing_is_told_in_training_and_not_when_it_is_judged(
    monkeypatch,
):
    made, seen, _ = little_scenes(16)
    plans = np.stack([made.path] * 5, 1)
    nothing = np.full((*plans.shape[:2], 5), np.nan)
    menu = Menu(1, made.of_role("labelled"), plans, MenuScores(nothing, *[nothing[..., 0]] * 4))
    told = Told({"teacher": seen, "constant": np.zeros_like(seen)}, {}, {})
    taught: list[np.ndarray] = []
    monkeypatch.setattr(
        study,
        "train_scorer",
        lambda ego, plans, scores, given, config: taught.append(*given.values()),
    )
    monkeypatch.setattr(
        study, "choose", lambda scorer, ego, plans, given: (given.popitem()[1] != 0).any(1)
    )
    heard = {
        name: bool(study._chosen(variant(name), made, menu, told, FEW).any())
        for name in ("menu+teacher", "menu+missing", "menu+constant")
    }
    assert heard == {"menu+teacher": True, "menu+missing": False, "menu+constant": False}
    assert [bool(rows.any()) for rows in taught] == [True, True, False]

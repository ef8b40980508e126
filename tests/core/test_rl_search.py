"""Search at test time: a known best plan is found, a scorer is asked about plans it did not propose."""

from __future__ import annotations

import pytest
import torch
from planner_factory import make_records

from latentvla_core.errors import SetupError
from latentvla_core.planner.hosts.ipad import Ipad
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.ipad_judge import judge, write
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner
from latentvla_core.planner.plan import make_batches, plan
from latentvla_core.rl.search import SearchConfig, Searching, bend, search

torch.set_num_threads(1)


def straight(speed_mps: float, scenes: int = 2) -> torch.Tensor:
    """(scenes, 8, 3) poses straight ahead."""
    poses = torch.zeros(scenes, 8, 3)
    poses[..., 0] = speed_mps * 0.5 * torch.arange(1, 9)
    return poses


def nearness(goal: torch.Tensor, sign: float = 1.0):
    """A scorer whose optimum is known: the mean distance to a plan."""

    def score(plans):
        return -sign * (plans[..., :2] - goal[:, None, :, :2]).norm(dim=-1).mean(-1)

    return score


GOAL = bend(straight(6.0), torch.tensor([[[4.0, 1.0, 1.5]], [[-5.0, 0.0, -0.8]]]))[:, 0]


def test_the_best_plan_of_a_scorer_is_found_and_a_turned_one_leads_away():
    start = straight(6.0)
    before = nearness(GOAL)(start[:, None])[:, 0]
    found, worth = search(start, nearness(GOAL), SearchConfig(rounds=8, margin=0.0))
    assert (worth > -0.3).all() and (before < -1.5).all()
    assert torch.allclose(nearness(GOAL)(found[:, None])[:, 0], worth)
    away, _ = search(start, nearness(GOAL, -1.0), SearchConfig(rounds=8, margin=0.0))
    assert (nearness(GOAL)(away[:, None])[:, 0] < before - 2.0).all()


def test_more_rounds_are_never_worse_and_the_same_seed_finds_the_same():
    start, score = straight(6.0), nearness(GOAL)
    worths = [search(start, score, SearchConfig(rounds=n, margin=0.0))[1] for n in (1, 3, 8)]
    assert (worths[0] <= worths[1]).all() and (worths[1] <= worths[2]).all()
    one, other = (search(start, score, SearchConfig(seed=4))[0] for _ in range(2))
    assert torch.equal(one, other)


def test_a_plan_of_the_menu_that_is_better_than_all_draws_is_taken():
    far = straight(30.0)
    found, _ = search(straight(6.0), nearness(far), SearchConfig(rounds=1), menu=far[:, None])
    assert torch.equal(found, far)


def test_the_planners_own_choice_stays_unless_something_is_worth_the_margin_more():
    start = straight(6.0)
    strict = SearchConfig(margin=100.0)
    found, worth = search(start, nearness(GOAL), strict)
    assert torch.equal(found, start)
    assert torch.allclose(worth, nearness(GOAL)(start[:, None])[:, 0])


def test_bent_plans_stay_smooth_and_nothing_bends_by_nothing():
    start = straight(8.0, 1)
    assert torch.equal(bend(start, torch.zeros(1, 2, 3))[0, 1], start[0])
    plans = bend(start, 3 * torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0)))
    assert plans[..., 0].diff(n=3, dim=-1).abs().max() < 1e-3  # parabolas: no zigzag


def test_settings_that_cannot_search_are_refused():
    with pytest.raises(ValueError, match="needs a round"):
        SearchConfig(rounds=0)
    with pytest.raises(ValueError, match="at least 2 best"):
        SearchConfig(best=65)
    with pytest.raises(SetupError, match="use an iPad"):
        Searching(build_planner("transfuser", TransfuserConfig.debug()))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 3)


@pytest.fixture(scope="module")
def ipad() -> Ipad:
    return build_planner("ipad", IpadConfig.debug(), seed=1).eval()


@torch.no_grad()
def test_what_ipad_proposed_is_judged_as_ipad_judges_it(ipad, records):
    batch = make_batches(ipad, records, None)(list(range(3)))
    out, sight = ipad(batch), ipad.look(batch)
    found = judge(ipad, sight, sight.proposals[-1])
    assert torch.allclose(found, ipad.choice(out["scores"]), atol=1e-5)


@torch.no_grad()
def test_a_plan_of_somebody_else_is_written_into_queries_that_say_it(ipad, records):
    sight = ipad.look(make_batches(ipad, records, None)([0, 1, 2]))
    near = sight.proposals[-1][:, :1] + torch.tensor([0.3, -0.2, 0.05])
    plans = torch.cat([near, near - 0.4, near + 0.1], 1)
    queries, said = write(ipad, sight, plans)
    assert queries.shape[:3] == plans.shape[:3]
    assert (said - plans).abs().mean() < 0.05
    worth = judge(ipad, sight, plans)
    assert worth.shape == (3, 3) and worth.isfinite().all() and worth.std() > 0


def test_a_searching_ipad_plans_like_any_planner_and_what_it_takes_is_worth_no_less(ipad, records):
    searching = Searching(ipad, SearchConfig(rounds=2, plans=16, best=4)).eval()
    assert plan(searching, records).shape == (3, 8, 3)
    batch = make_batches(ipad, records, None)([0, 1, 2])
    with torch.no_grad():
        own = ipad.choice(ipad(batch)["scores"]).amax(1)
        found = searching(batch)
    assert (found["worth"] >= own - 1e-5).all() and found["poses"][..., 2].abs().max() <= torch.pi

"""The benchmark of closed-loop RL keeps what it trained beside what it started from."""

from __future__ import annotations

from types import SimpleNamespace

from benchmarks import rl_driving
from benchmarks.rl_drives import planners_in
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner, load, save


def test_every_seed_starts_from_its_own_planner_and_is_found_by_the_drives(
    tmp_path, monkeypatch, capsys
):
    for seed in (0, 1):
        made = build_planner("transfuser", TransfuserConfig.debug(), seed=seed)
        save(made, tmp_path / "planners" / f"shaped-{seed}")
    started, configs = [], []

    def learn(planner, scenes, config):
        started.append(float(next(planner.parameters()).detach().flatten()[0]))
        configs.append(config)
        return SimpleNamespace(before=0.25, after=0.5)

    monkeypatch.setattr(rl_driving, "scenes_of", lambda out, count, seconds: [None] * 9)
    monkeypatch.setattr(rl_driving, "learn_by_driving", learn)
    rl_driving.main(["--out", str(tmp_path), "--start", "shaped", "--seeds", "2", "--steps", "3"])
    assert started[0] != started[1]
    assert [(c.training.seed, c.training.steps) for c in configs] == [(0, 3), (1, 3)]
    assert configs[0].picture_wh == rl_driving.WORLD.picture_wh
    assert "seed 1: return of 9 scenes 0.25 → 0.50" in capsys.readouterr().out
    kept = [c.name for c in planners_in(tmp_path / "planners", ["shaped_driving"])]
    assert kept == ["shaped_driving-0", "shaped_driving-1"]
    assert load(tmp_path / "planners" / "shaped_driving-0").name == "transfuser"

"""A model's card: made of what, how good, how fast, not for what, under whose licence."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.site_lake import write_lake
from latentvla_core.lake.store import Lake
from latentvla_core.viz.curves import curves_picture
from latentvla_core.viz.report.card import (
    Card,
    Latency,
    base_weights,
    licences,
    limits,
    model_card,
)
from latentvla_core.viz.report.facts import read_facts
from latentvla_core.viz.report.model_page import model_page
from latentvla_core.viz.report.worst import Worst


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return write_lake(tmp_path_factory.mktemp("card") / "lake", 75)


def card(name: str = "ipad", family: str = "planner", **changes) -> Card:
    told = {"version": "v1", "recipe": "mini", "commit": "abc", "parameters": 1234}
    return Card(**{"name": name, "family": family, "inputs": {}, "metrics": {}, **told, **changes})


def test_before_it_is_scored_the_card_says_what_it_waits_for():
    fresh = model_card(card(inputs={"scenes": 6}, metrics={"val/ade_m": 1.5}, splits=("train",)))
    assert "Not scored" in fresh and "| scenes | 6 |" in fresh and "val/ade_m: 1.5" in fresh
    assert "1,234 weights" in fresh and "Trained on split train" in fresh
    assert "no planner" in model_card(card("vlm", "vlm"))


def test_scores_have_their_interval_and_what_they_lose_most_is_a_limit(lake):
    facts = read_facts(lake)
    scored = model_card(card(metrics={"x": np.nan}), facts)
    assert "| test | pdms-v1.1 |" in scored and "25 of 25" in scored
    assert "None were recorded" in scored and "nan" not in scored.lower()
    assert "Closed loop: not driven." in scored
    worst = min(v for v in facts.standings[0].sub.values())
    told = [line for line in limits(card("human"), facts) if "Loses most" in line]
    assert len(told) == 1 and f"{worst:.2f}" in told[0]
    assert "Not for use on public roads." in limits(card(), None)


def test_a_latency_is_told_with_the_machine_it_was_measured_on():
    latency = Latency(12.4, 30.0, 12, "Some CPU, 2 thread(s)")
    told = model_card(card(latency=latency))
    assert "12 ms a scene (median of 12, slowest 30 ms)" in told and "Some CPU" in told
    assert "Not measured." in model_card(card())


def test_the_card_links_to_what_the_model_does():
    assert "(http://x/index.html#/?planner=ipad)" in model_card(
        card(url="http://x/index.html#/?planner=ipad")
    )


def test_a_planners_page_has_its_scores_its_plans_as_pictures_and_everything_of_its_card(lake):
    plan = Worst("ipad", "scene", "log", "pdms-v1.1", 0.25, ("NC = 0: hits",), b"above", b"seen")
    told = Latency(12.4, 30.0, 12, "Some CPU")
    page = model_page(
        card(latency=told, inputs={"scenes": 6}, splits=("train",), url="http://x/index.html#/"),
        read_facts(lake),
        [plan, replace(plan, scene_token="middle", tells_itself=True)],
        b"curves",
        {"planner.steps": "7"},
    )
    assert page.count("<img") == 5 and page.count("alt=") == 5 and "NC = 0: hits</li>" in page
    assert page.count("<li>NC = 0") == 1  # the other picture tells itself
    for said in (
        "12 ms a scene",
        "ipad: 0.",
        "<td class=num>6</td>",
        "planner.steps",
        "public roads",
    ):
        assert said in page
    assert "transfuser" not in page and "href='http://x/index.html#/'>Browse" in page
    fresh = model_page(card("newer"), read_facts(lake), [])
    assert "Not scored" in fresh and "Not measured." in fresh and "<img" not in fresh


def test_published_weights_are_found_at_any_depth_with_their_licence(tmp_path: Path):
    for width, licence in ((2048, "no commercial use"), (3584, "Apache-2.0")):
        folder = tmp_path / f"qwen{width}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"hidden_size": width}))
        ((weights, told),) = base_weights({"backend": "pretrained", "pretrained_path": str(folder)})
        assert weights == f"Qwen2.5-VL (qwen{width})" and licence in told
    (gone,) = base_weights({"pretrained_path": "/not/there"})
    assert "3B:" in gone[1] and "7B:" in gone[1]
    deep = {
        "a": [{"encoder": {"name": "efficientnet_lite0", "folder": ""}}],
        "b": {"backbone": "/x/d"},
    }
    assert base_weights(deep) == [
        ("EfficientNet-Lite0 (ImageNet)", "Apache-2.0"),
        ("DINOv2 (d)", "Apache-2.0"),
    ]
    assert base_weights({"image_weights": "", "pretrained_path": "", "kind": "pixels"}) == []


def test_a_model_drawn_at_random_says_so_and_weights_are_named_once():
    assert "no published weights" in licences([])[0]
    assert len(licences([("a", "l"), ("a", "l"), ("b", "l")])) == 2


def test_only_numbers_that_were_logged_twice_become_curves():
    assert curves_picture({"loss": [(1, 2.0)]}) == b"" and curves_picture({}) == b""
    one = curves_picture({"loss": [(1, 2.0), (2, 1.0)]})
    four = curves_picture({name: [(1, 2.0), (2, 1.0)] for name in "abcd"})
    assert one.startswith(b"\x89PNG") and len(four) > len(one)

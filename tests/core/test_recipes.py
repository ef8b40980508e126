"""Four sizes, one schema; the paper's numbers without the paper's memory."""

from dataclasses import asdict, replace
from typing import Any

import pytest

from latentvla_core.errors import SetupError
from latentvla_core.latent.presets import preset
from latentvla_core.latent.quantizer import QuantizerConfig
from latentvla_core.recipes import RECIPES, Weights, recipe_named
from latentvla_core.sizes import parameter_counts


def keys_of(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {k for key, v in value.items() for k in keys_of(v, f"{path}.{key}")}
    return {path}


def test_every_recipe_has_the_same_fields():
    schemas = [keys_of(asdict(recipe_named(name))) for name in RECIPES]
    assert all(schema == schemas[0] for schema in schemas)


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(SetupError, match="debug, mini, single_gpu, paper"):
        recipe_named("papper")


def test_weights_go_where_a_recipe_wants_them_and_nowhere_else():
    weights = Weights(qwen="/q", dinov2="/d")
    paper, mini = recipe_named("paper", weights), recipe_named("mini", weights)
    assert paper.vlm.pretrained_path == "/q"
    assert paper.latent.features.backbone == "/d"
    assert mini == recipe_named("mini")


def test_the_paper_recipe_has_the_published_sizes():
    counts = parameter_counts(recipe_named("paper"))
    assert counts["vlm"] == pytest.approx(3.755e9, rel=1e-3)
    assert counts["student"] == pytest.approx(50e6, rel=0.1)
    assert counts["latent_action_model"] == pytest.approx(2 * 198e6, rel=0.03)  # both stages
    assert counts["ipad_latent"] > counts["ipad"]


def test_latent_codes_must_be_the_tokens_the_vlm_answers():
    recipe = recipe_named("debug")
    twelve_of_one = replace(recipe.latent, num_transitions=1, codes_per_transition=12)
    assert replace(recipe, latent=twelve_of_one).latent.num_tokens == 12
    with pytest.raises(
        SetupError,
        match="num_transitions 3 × codes_per_transition 8 make 24 tokens, the VLM answers 12",
    ):
        replace(recipe, latent=preset("lapo_vq", recipe.latent))
    with pytest.raises(SetupError, match="64 of them; the VLM has words for 16"):
        replace(recipe, latent=preset("codebook_64", recipe.latent))
    with pytest.raises(
        SetupError,
        match="environment.codebook_size is 256; table latent_actions holds codes up to 127",
    ):
        replace(
            recipe, latent=replace(recipe.latent, environment=QuantizerConfig(codebook_size=256))
        )
    for name in ("faithful", "reencode", "single_stage", "fsq", "univla"):
        replace(recipe, latent=preset(name, recipe.latent))


def test_a_label_must_fit_into_a_scene():
    recipe = recipe_named("debug")
    with pytest.raises(
        SetupError, match="3 transitions of gap_frames 4 need 12 future frames, a scene has 10"
    ):
        replace(recipe, latent=preset("gap_2s", recipe.latent))


def test_the_demo_is_small():
    assert sum(parameter_counts(recipe_named("mini")).values()) < 5e6

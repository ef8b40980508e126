"""A scene with its ground, made in one go: what every score of its runs needs."""

from __future__ import annotations

from latentvla_core.closed_loop.episode import Scene, human_scene
from latentvla_core.closed_loop.scenes.scene import Opened, open_scene
from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.closed_loop.scores.drive import Ground, ground_of


def open_prepared(spec: SceneSpec, seconds: float = 20.0) -> tuple[Scene, Ground, Opened]:
    """Scene, ground, and the opened scene after its human has driven it."""
    opened = open_scene(spec)
    scene = human_scene(opened, seconds)
    return scene, ground_of(opened.town, opened.route), opened

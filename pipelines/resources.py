"""What assets need from their surroundings, in one place: settings, and through them lake, registry
and device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import dagster as dg

from pipelines.settings import Settings
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage


class LatentVLAResource(dg.ConfigurableResource):
    """The deployment an asset runs in. Empty fields mean: as the environment says
    (pipelines/settings.py).
    """

    recipe: str = ""
    lake: str = ""
    mlflow_uri: str = ""
    echo: bool = False
    """Also print what is logged: the demo's progress."""

    def settings(self) -> Settings:
        import dataclasses

        given = {
            k: v
            for k, v in (
                ("recipe", self.recipe),
                ("lake", self.lake),
                ("mlflow_uri", self.mlflow_uri),
            )
            if v
        }
        return dataclasses.replace(Settings.from_env(), **given)

    def engine(self, stages: Mapping[str, Stage], say: Callable[[str], None]) -> Engine:
        return Engine(self.settings(), stages, _echo(say) if self.echo else say)


def _echo(say: Callable[[str], None]) -> Callable[[str], None]:
    def both(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        say(text)

    return both

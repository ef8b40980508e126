"""What lies with a model's run in MLflow beside its weights: every parameter of its recipe, how it
was trained, and pictures of what it does.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentvla_core.training.sinks import read_curves
from latentvla_core.viz.curves import curves_picture
from pipelines.settings import TEST
from pipelines.steps.context import CURVES

if TYPE_CHECKING:
    from latentvla_core.viz.report.worst import Worst
    from pipelines.steps.context import StageContext

MOST_CHARACTERS = 500  # of a parameter's value in MLflow
PICTURES, TRAINING = "pictures", "training"
SHOWN_WORST = 3
Log = Callable[[str, str], Any]


def parameters_of(recipe: Any, sections: Sequence[str]) -> dict[str, str]:
    """`planner.train.training.steps` → its value, of every field of the sections a stage reads."""
    found: dict[str, str] = {}
    for section in sections:
        for name, value in _leaves(section, getattr(recipe, section)):
            found[name] = str(value)[:MOST_CHARACTERS]
    return found


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(f"{name}.{key}", part)
    else:
        yield name, value


def keep_training(folder: Path, log: Log) -> None:
    """The configuration, the numbers of the training and their picture; `log(file, folder)`."""
    for name in ("config.json", CURVES):
        if (folder / name).is_file():
            log(str(folder / name), TRAINING)
    if drawn := curves_picture(read_curves(folder / CURVES)):
        with tempfile.TemporaryDirectory() as room:
            path = Path(room) / "training.png"
            path.write_bytes(drawn)
            log(str(path), PICTURES)


def plans_shown(context: StageContext, planner: str) -> list[Worst]:
    """Where the planner's plans lose most on the held-out split, with causes, and one of its middle
    score; none where there are no scores.
    """
    from latentvla_core.viz.report.worst import worst_plans

    metric = context.recipe.metrics[0]
    place = {"split": TEST, "trajectory_id": planner}
    return worst_plans(context.lake, place, metric, SHOWN_WORST, alone=True, with_middle=True)


def keep_pictures(client: Any, run_id: str, plans: Sequence[Worst]) -> None:
    """The worst plans as PNG with their causes as text."""
    told = []
    for number, each in enumerate(plans[:SHOWN_WORST], 1):
        name = f"worst_{number}_{each.scene_token}"
        client.log_image(run_id, _pixels(each.above), artifact_file=f"{PICTURES}/{name}.png")
        told.append(f"{name} ({each.score:.3f}):\n" + "\n".join(f"  {c}" for c in each.causes))
    if told:
        client.log_text(run_id, "\n\n".join(told) + "\n", f"{PICTURES}/worst.txt")


def _pixels(png: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")

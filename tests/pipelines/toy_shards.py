"""A line of one stage whose shards do what a test asks of them; imported by worker processes too."""

from __future__ import annotations

import os
import time
from pathlib import Path

from label_rows import label

from latentvla_core.errors import DataError
from pipelines.steps.context import Output, StageContext
from pipelines.steps.lineage import Stage


def toy(engine: StageContext, partition: str) -> Output:
    """One row per shard. Files in `orders` beside the lake ask for trouble."""
    orders = Path(engine.settings.home) / "orders"
    die = orders / f"die-{partition}"
    if die.is_file():
        left = int(die.read_text())
        die.write_text(str(left - 1))
        if left > 0:
            os._exit(9)
    if (orders / f"refuse-{partition}").is_file():
        raise DataError(f"{partition} is refused", file="a.pkl", frame="7")
    if (orders / "slow").is_file():
        time.sleep(0.3)
    with (orders / "done").open("a") as file:
        file.write(f"{os.getpid()} {partition}\n")
    engine.say(f"doing {partition}")
    return Output(
        [label(f"scene {partition}", delta_heading_rad=0.0)],
        groups=("m",),
        metadata={"of": partition},
    )


STAGES = {
    "toy": Stage(
        name="toy", run=toy, kind="shards", table="latent_actions", deps=(), group="g", doc=""
    )
}
AT = "toy_shards:STAGES"

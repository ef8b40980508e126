"""Is a broken latent action model stopped? Runs job `labels` at recipe `mini` with one thing wrong,
as the demo would.

    LATENTVLA_HOME=DIR python -m benchmarks.latent_gate conditioning_none learning_rate

Prints the gate's messages. The exit code is the number of broken recipes that made labels all the
same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

from latentvla_core import recipes
from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.presets import preset
from latentvla_core.training.config import with_training

SOUND = recipes.mini()
BREAKS: dict[str, Callable[[LatentActionConfig], LatentActionConfig]] = {
    "conditioning_none": lambda config: preset("conditioning_none", config),
    "learning_rate": lambda config: with_training(
        config, learning_rate=config.training.learning_rate * 100
    ),
}


def stopped(broken: str) -> bool:
    """Break the recipe, run the line, say what happened."""
    from pipelines.demo import run_job
    from pipelines.settings import Settings

    recipes.RECIPES["mini"] = lambda: replace(SOUND, latent=BREAKS[broken](SOUND.latent))
    started = time.process_time()
    try:
        run_job(Settings.from_env(), "labels")
    except LatentVLAError as error:
        print(f"{broken}: stopped after {time.process_time() - started:.0f} CPU-seconds\n{error}")
        return True
    print(f"{broken}: labels were made, {time.process_time() - started:.0f} CPU-seconds")
    return False


def main() -> int:
    """Number of broken recipes that were not stopped."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("broken", nargs="*", help=f"some of {', '.join(BREAKS)}; default all")
    return sum(not stopped(broken) for broken in parser.parse_args().broken or BREAKS)


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m pipelines.engines.device ORDER`, started by torchrun: one process of a training.

Under Dagster Pipes the first process reports its lines to the run that waits for it.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path


def main(path: str) -> None:
    from pipelines.engines.devices import train_here

    order = pickle.loads(Path(path).read_bytes())
    if os.environ.get("RANK") != "0":
        return train_here(order, lambda text: None)
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        return train_here(order, lambda text: print(text, flush=True))
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        train_here(order, pipes.log.info)
    return None


if __name__ == "__main__":
    main(sys.argv[1])

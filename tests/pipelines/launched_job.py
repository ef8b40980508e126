"""A job that waits, for runs that are killed or stopped."""

import time
from pathlib import Path

import dagster as dg


@dg.op(config_schema={"begun": str})
def wait(context: dg.OpExecutionContext) -> None:
    Path(context.op_config["begun"]).touch()
    time.sleep(300)


@dg.job(executor_def=dg.in_process_executor)
def waiting() -> None:
    wait()

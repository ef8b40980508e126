"""Processes of a training as Dagster Pipes: their lines are events of the run while it goes.

It has no postponed annotations, as Dagster wants.
"""

from collections.abc import Sequence

import dagster as dg

from pipelines.engines.devices import Say, Start


def through(context: dg.AssetExecutionContext) -> Start:
    """How `devices.on_devices` starts its processes inside an asset."""

    def start(command: Sequence[str], say: Say) -> None:
        client = dg.PipesSubprocessClient()
        try:
            client.run(context=context.op_execution_context, command=list(command))
        except dg.DagsterPipesExecutionError as error:
            say(f"{error}; what its processes said follows")

    return start

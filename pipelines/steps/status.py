"""`latentvla status`: what is stale and why, which model is champion since when and by how much, what
changed since yesterday, what failed and the command that retries it. Looking changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import typer

from latentvla_core.errors import LatentVLAError
from latentvla_core.lake.store import Lake
from pipelines.registry.gates import PROMOTED, ROLLED_BACK
from pipelines.settings import Settings
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage, fingerprint

DAY_US = 86_400_000_000
SHOWN = 4  # partitions named before a count stands for the rest


def status() -> None:
    """What is stale and why, champions, what changed since yesterday, what failed and how to retry."""
    from pipelines.stages import STAGES

    settings = Settings.from_env()
    engine = Engine(settings, STAGES, lambda text: None)
    parts = (
        ("stale", stale_lines(engine)),
        ("champions", champion_lines(engine.lake)),
        ("since yesterday", change_lines(engine.lake, time.time_ns() // 1000)),
        ("failed", failure_lines(settings)),
    )
    for title, lines in parts:
        typer.secho(title, bold=True)
        for line in lines:
            typer.echo(f"  {line}")


def stale_lines(engine: Engine) -> list[str]:
    """One line per asset that has work to do, with the reasons; or that there is none."""
    try:
        reasons = stale_reasons(engine)
    except LatentVLAError as error:
        return [f"cannot be told: {error}"]
    never = never_begun(engine)
    aside = [f"{group}: never begun ({len(names)} assets)" for group, names in never.items()]
    found: dict[tuple[str, str], list[str]] = {}
    for (asset, partition), why in reasons.items():
        if not any(asset in names for names in never.values()):
            found.setdefault((asset, why), []).append(partition)
    lines = [f"{asset}{_places(parts)}: {why}" for (asset, why), parts in found.items()]
    told = [*lines, "bring it up to date: latentvla demo"] if lines else []
    return [*(told or ["nothing: everything is up to date"]), *aside]


def never_begun(engine: Engine) -> dict[str, list[str]]:
    """Groups of a line in use none of whose assets was ever made: their work is not stale, nobody
    asked for it.
    """
    done = {asset for asset, _ in engine.ledger.latest}
    groups: dict[str, list[str]] = {}
    for stage in engine.stages.values():
        groups.setdefault(stage.group, []).append(stage.name)
    return {g: names for g, names in groups.items() if done and not done & set(names)}


def stale_reasons(engine: Engine) -> dict[tuple[str, str], str]:
    """(asset, partition) → why it is to be done, in the order of the line. The pairs are those of
    `stale_work`.
    """
    expected: dict[tuple[str, str], str] = {}
    reasons: dict[tuple[str, str], str] = {}
    partitions = engine.settings.partitions
    for stage in engine.stages.values():
        for part in partitions if stage.partitioned else ("",):
            made = fingerprint(
                stage,
                part,
                engine.recipe,
                partitions,
                engine.stages,
                lambda asset, place: expected[asset, place],
                engine.files_key,
            )
            expected[stage.name, part] = made
            why = _why(engine, stage, part, made, reasons)
            if why:
                reasons[stage.name, part] = why
    return reasons


def _why(
    engine: Engine, stage: Stage, part: str, made: str, reasons: dict[tuple[str, str], str]
) -> str:
    """Empty where the work is still true."""
    row = engine.ledger.latest.get((stage.name, part))
    if row is None:
        return "never done"
    if row["made_by"] == made:
        return engine.why_gone(stage, part)
    if row["code_version"] != stage.code_version:
        return f"its code is version {stage.code_version}, was {row['code_version']}"
    if row["recipe"] != engine.recipe.name:
        return f"the recipe is {engine.recipe.name}, was {row['recipe']}"
    above = [
        dep
        for dep in stage.deps
        if any(a == dep and (p in (part, "") or not stage.partitioned) for a, p in reasons)
    ]
    if above:
        return f"follows {', '.join(above)}"
    causes = [f"its files ({', '.join(stage.files)})"] * bool(stage.files)
    causes += [f"recipe section {', '.join(stage.recipe)}"] * bool(stage.recipe)
    return f"{' or '.join([*causes, 'what it was made from'])} changed"


def _places(partitions: list[str]) -> str:
    if partitions == [""]:
        return ""
    rest = len(partitions) - SHOWN
    return f" {', '.join(partitions[:SHOWN])}{f' and {rest} more' if rest > 0 else ''}"


def champion_lines(lake: Lake) -> list[str]:
    """Who holds the alias of every model: since when, and by how much or by whose hand."""
    if lake.version("releases") < 0:
        return ["none yet: nothing was released"]
    times = {r["made_by"]: r["finished_us"] for r in lake.rows("materialisations")}
    moved: dict[str, dict[str, Any]] = {}
    for row in lake.rows("releases"):
        since = row["decided_us"] or times.get(row["made_by"], 0)
        moves = row["decision"] in (PROMOTED, ROLLED_BACK)
        if moves and since >= moved.get(row["name"], {"at": -1})["at"]:
            moved[row["name"]] = {**row, "at": since}
    return [_champion(row) for row in moved.values()] or ["none: nothing was promoted"]


def _champion(row: dict[str, Any]) -> str:
    if row["decision"] == ROLLED_BACK:
        back = f"since {_when(row['at'])}, given back by hand"
        return f"{row['name']} {row['champion']}: {back}; version {row['version']} was rolled back"
    gain = row["challenger_score"] - row["champion_score"]
    by = f"{gain:+.4f} over the one before" if gain == gain else "the first"
    score = f"{row['metric_version']} {row['challenger_score']:.4f}"
    return (
        f"{row['name']} {row['version']}: since {_when(row['at'])}, {score} on {row['split']}, {by}"
    )


def change_lines(lake: Lake, now_us: int) -> list[str]:
    """Work finished in the last 24 hours, by asset."""
    sums: dict[str, list[float]] = {}
    for row in lake.rows("materialisations"):
        if row["finished_us"] > now_us - DAY_US:
            found = sums.setdefault(row["asset"], [0, 0, 0, 0.0])
            for i, value in enumerate((1, row["rows"], row["quarantined"], row["seconds"])):
                found[i] += value
    return [
        f"{asset}: {n} pieces, {rows} rows, {refused} refused, {seconds:.0f} s"
        for asset, (n, rows, refused, seconds) in sums.items()
    ] or ["nothing was made"]


def failure_lines(settings: Settings) -> list[str]:
    """Runs that failed after the last success of their job, and the command that does the rest."""
    import dagster as dg

    settings.prepare_dagster_home()
    with dg.DagsterInstance.get() as instance:
        return [*_failures(instance)] or ["nothing"]


def _failures(instance: Any) -> Iterator[str]:
    """Per job, newest first: only what no later success has mended."""
    import dagster as dg

    done: set[str] = set()
    for record in instance.get_run_records(limit=200):
        run = record.dagster_run
        if run.job_name in done:
            continue
        if run.status == dg.DagsterRunStatus.SUCCESS:
            done.add(run.job_name)
        elif run.status == dg.DagsterRunStatus.FAILURE:
            done.add(run.job_name)
            job = run.job_name if run.job_name != "__ASSET_JOB" else "whole_line"
            when = _when(int(record.update_timestamp.timestamp() * 1e6))
            yield f"{run.job_name} {when}: {_step_error(instance, run.run_id)}"
            yield f"  again, from where it stopped: latentvla demo --job {job}"


def _step_error(instance: Any, run_id: str) -> str:
    import dagster as dg

    events = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    if not events:
        return "it ended before a step could say why"
    event = events[0].event_log_entry.dagster_event
    error = event.event_specific_data.error
    cause = (error.cause or error) if error else None
    said = cause.message.strip().splitlines()[0] if cause else "no message"
    return f"asset {event.step_key}: {said[:300]}"


def _when(at_us: int) -> str:
    """Local time with its zone."""
    return datetime.fromtimestamp(at_us / 1e6).astimezone().strftime("%Y-%m-%d %H:%M %Z")

"""`python -m pipelines.services.prune`: old versions of registered models go, by a rule.

Kept are every version with an alias (champion, deployed, challenger), every one that was promoted
once, since `latentvla rollback` may want it, the newest `--keep` of each model, and what those need
(a planner names the VLM or student whose features it reads). `mlflow gc` then gives the space back.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentvla_core.errors import LatentVLAError, SetupError
from latentvla_core.lake.store import Lake
from pipelines.registry.connection import answering, connect
from pipelines.registry.gates import PROMOTED
from pipelines.settings import Settings

KEEP = 3
Key = tuple[str, str]
"""Name and number of a registered version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A registered version, as the rule sees it."""

    name: str
    number: str
    made_by: str
    aliases: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """`name/made_by` of models that it reads."""

    @property
    def key(self) -> Key:
        return self.name, self.number


def prunable(versions: Sequence[Version], promoted: Iterable[Key], keep: int) -> list[Version]:
    """What may go, oldest first. Raises SetupError for a rule that would keep nothing."""
    if keep < 1:
        raise SetupError(f"keep is {keep}; needs at least 1 version of each model")
    by_name: dict[str, list[Version]] = {}
    for version in sorted(versions, key=lambda v: int(v.number)):
        by_name.setdefault(version.name, []).append(version)
    kept = {v.key for own in by_name.values() for v in own[-keep:]} | set(promoted)
    kept |= {v.key for v in versions if v.aliases}
    places = {f"{v.name}/{v.made_by}": v for v in versions}
    waiting = [v for v in versions if v.key in kept]
    while waiting:
        for place in waiting.pop().needs:
            needed = places.get(place)
            if needed and needed.key not in kept:
                kept.add(needed.key)
                waiting.append(needed)
    return [v for own in by_name.values() for v in own if v.key not in kept]


def versions_of(client: Any, settings: Settings) -> list[Version]:
    """All registered versions of this deployment."""
    aliases: dict[Key, list[str]] = {}
    for model in client.search_registered_models():
        for alias, number in model.aliases.items():
            aliases.setdefault((model.name, str(number)), []).append(alias)
    return [
        Version(
            name=v.name, number=str(v.version), made_by=v.tags.get("made_by", ""),
            aliases=tuple(aliases.get((v.name, str(v.version)), ())),
            needs=_needs(settings, v.name, v.tags.get("made_by", "")),
        )
        for v in client.search_model_versions()
    ]  # fmt: skip


def _needs(settings: Settings, name: str, made_by: str) -> tuple[str, ...]:
    summary = settings.models / name / made_by / "summary.json"
    parts: Mapping[str, str] = (
        json.loads(summary.read_text())["parts"] if made_by and summary.is_file() else {}
    )
    return tuple(f"{Path(p).parent.name}/{Path(p).name}" for p in parts.values())


def prune(
    settings: Settings, keep: int = KEEP, *, dry_run: bool = False, say: Callable[[str], None]
) -> list[Version]:
    """Delete what may go from registry and working folder; returns it."""
    promoted = {
        (row["name"], row["version"])
        for row in Lake(settings.lake).rows("releases")
        if row["decision"] == PROMOTED
    }
    with answering(settings, "start MLflow or set MLFLOW_TRACKING_URI, and run again"):
        client = connect(settings)
        gone = prunable(versions_of(client, settings), promoted, keep)
        for version in gone:
            say(f"{version.name} version {version.number}{' would go' if dry_run else ' goes'}")
            if not dry_run:
                _delete(client, settings, version)
    return gone


def _delete(client: Any, settings: Settings, version: Version) -> None:
    registered = client.get_model_version(*version.key)
    client.delete_model_version(*version.key)
    if model_id := getattr(registered, "model_id", None):
        client.delete_logged_model(model_id)
    if version.made_by:
        shutil.rmtree(settings.models / version.name / version.made_by, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.services.prune", description=__doc__)
    parser.add_argument("--keep", type=int, default=KEEP, help="newest versions of each model")
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    options = parser.parse_args(argv)
    try:
        gone = prune(Settings.from_env(), options.keep, dry_run=options.dry_run, say=print)
    except LatentVLAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(gone)} versions; mlflow gc gives their space back")
    return 0


if __name__ == "__main__":
    sys.exit(main())

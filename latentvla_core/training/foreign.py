"""One refusal for weights that are not what a model expects: which tensors lack, which are others."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from latentvla_core.errors import SetupError

SHOWN = 3


def check_tensors(
    source: object,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[str] = (),
) -> None:
    """Raises SetupError naming the first tensors of each kind, with the likely reason."""
    lists = {"lacks": missing, "has others": unexpected, "has other shapes of": mismatched}
    faults = {what: sorted(map(str, names)) for what, names in lists.items()}
    told = [f"{what} {_few(names)}" for what, names in faults.items() if names]
    if told:
        names = [name for found in faults.values() for name in found]
        raise SetupError(f"{source}: the checkpoint {' and '.join(told)}; {_likely(names)}")


def check_model_type(folder: Path, wanted: str) -> None:
    """Raises SetupError when a checkpoint folder has no config.json, or one of another model."""
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text()).get("model_type", "none")
    except (OSError, ValueError, AttributeError) as error:
        raise SetupError(f"{file}: no readable configuration ({str(error)[:200]})") from error
    if found != wanted:
        raise SetupError(f"{file}: model_type is {found!r}; a folder of {wanted} is expected")


def _few(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} tensor(s) ({', '.join(names[:SHOWN])}{rest})"


def _likely(names: list[str]) -> str:
    if any("base_model.model." in name or "lora_" in name for name in names):
        return "it is an adapter of peft: merge it into its base model and save that"
    return "copy the folder again, with every shard, or train again"

"""One refusal for weights that are not what a model expects: which tensors lack, which are others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from latentvla_core.errors import SetupError

SHOWN = 3
HEADS = ("classifier.", "head.", "pooler.", "fc.")
"""Of published classifiers, beside the backbone that is asked for."""
COUNTERS = "num_batches_tracked"  # of batch norms: no weight


def pretrained(kind: Any, folder: str | Path, *, heads: bool = False, **options: Any) -> Any:
    """`kind.from_pretrained` of a local folder; never asks the network, whatever HF_HUB_OFFLINE
    says.

    Args:
        heads: the folder may hold the head of a classifier beside what is loaded.
    Raises SetupError naming the tensors when the folder lacks some, holds others or other shapes:
    transformers would draw what is missing at random.
    """
    try:
        with quiet():
            network, found = kind.from_pretrained(
                str(folder),
                local_files_only=True,
                ignore_mismatched_sizes=True,  # ours are refused below, by name
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        raise SetupError(f"{folder}: not a readable checkpoint ({str(error)[:300]})") from error
    shapes = [str(key[0] if isinstance(key, tuple) else key) for key in found["mismatched_keys"]]
    lacks = [name for name in found["missing_keys"] if not str(name).endswith(COUNTERS)]
    others = found["unexpected_keys"]
    check_tensors(
        folder, lacks, [n for n in others if not (heads and str(n).startswith(HEADS))], shapes
    )
    return network


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


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no reports of the library's own between ours."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()

"""A trained model as a folder: `model.safetensors` and `config.json`, which holds the weights'
checksum.

Each file arrives by one rename and the config comes last, so weights and config of different runs
are noticed.
"""

from __future__ import annotations

import json
import os
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open
from torch import nn

from latentvla_core.errors import SetupError
from latentvla_core.training.checkpoint import file_sha256
from latentvla_core.training.config import is_knob, nested
from latentvla_core.training.foreign import check_tensors

Config = TypeVar("Config")
_KEYS = ("config_class", "config", "extra", "weights_sha256")
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def save_model(
    folder: Path | str, model: nn.Module, config: Any, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write weights (tied tensors once) and the config dataclass; `extra` is any JSON (lineage,
    metrics).
    """
    from safetensors.torch import save_model as save_weights

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{WEIGHTS_FILE}.{os.getpid()}"
    save_weights(model, str(unfinished))
    checksum = file_sha256(unfinished)
    os.replace(unfinished, folder / WEIGHTS_FILE)
    content = {
        "kind": type(model).__name__,
        "config_class": type(config).__name__,
        "config": asdict(config),
        "extra": dict(extra or {}),
        "weights_sha256": checksum,
    }
    text = folder / f".{CONFIG_FILE}.{os.getpid()}"
    text.write_text(json.dumps(content, indent=1))
    os.replace(text, folder / CONFIG_FILE)
    return folder


def load_config(folder: Path | str, config_class: type[Config]) -> Config:
    """The config dataclass a model folder was saved with."""
    return from_dict(config_class, load_fields(folder, config_class))


def load_fields(folder: Path | str, config_class: type[Any]) -> dict[str, Any]:
    """The config as it was saved, before it becomes the dataclass it must be of."""
    content = _content(folder)
    if content["config_class"] != config_class.__name__:
        raise SetupError(
            f"{folder}: holds a {content['config_class']}, not a {config_class.__name__}; check the path"
        )
    return content["config"]


def load_extra(folder: Path | str) -> dict[str, Any]:
    """What was saved beside the config."""
    return _content(folder)["extra"]


def load_weights(folder: Path | str, model: nn.Module) -> None:
    """Fill the model; every tensor must be there and fit, and the file must be the one the config
    speaks of.
    """
    from safetensors.torch import load_model

    path = Path(folder) / WEIGHTS_FILE
    recorded = _content(folder)["weights_sha256"]
    if not path.exists() or file_sha256(path) != recorded:
        raise SetupError(
            f"{path}: missing, or not the file {CONFIG_FILE} was written for; save the model again"
        )
    try:
        check_tensors(path, (), (), _other_shapes(path, model))
        missing, unexpected = load_model(model, str(path), strict=False)
    except (RuntimeError, SafetensorError) as error:
        raise SetupError(f"{path}: not a readable checkpoint ({str(error)[:200]})") from error
    check_tensors(path, missing, unexpected)


def _other_shapes(path: Path, model: nn.Module) -> list[str]:
    """Names of tensors that the file and the model have, in different shapes."""
    own = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(path, "pt") as file:
        stored = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return [name for name, shape in stored.items() if own.get(name, shape) != shape]


def from_dict(config_class: type[Config], values: Mapping[str, Any]) -> Config:
    """A dataclass (nested ones too) from what `asdict` made of it and JSON did to that."""
    if not isinstance(values, Mapping):
        raise SetupError(f"{config_class.__name__} is {str(values)[:60]!r}; it must have fields")
    hints = get_type_hints(config_class)
    known = {f.name for f in fields(config_class)}  # pyright: ignore[reportArgumentType]
    if "training" in known and any(is_knob(name) for name in values.keys() - known):
        values = nested(values)
    unknown = sorted(values.keys() - known)
    if unknown:
        raise SetupError(
            f"{config_class.__name__} has no field {unknown[0]!r}; saved by another version of the code"
        )
    try:
        return config_class(**{name: _typed(hints[name], value) for name, value in values.items()})
    except (TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise SetupError(
            f"{config_class.__name__}: {str(error)[:200]}; saved by another version of the code, or"
            " damaged"
        ) from error


def _typed(hint: Any, value: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        inner = [a for a in get_args(hint) if a is not type(None)]
        return None if value is None else _typed(inner[0], value) if len(inner) == 1 else value
    if is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(hint, value)  # pyright: ignore[reportArgumentType]
    if get_origin(hint) is tuple and isinstance(value, list):
        args = get_args(hint)
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        return tuple(_typed(a, v) for a, v in zip(inner, value, strict=True))
    return value


def _content(folder: Path | str) -> dict[str, Any]:
    path = Path(folder) / CONFIG_FILE
    try:
        content = json.loads(path.read_text())
        if missing := [key for key in _KEYS if key not in content]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if not all(isinstance(content[key], dict) for key in ("config", "extra")):
            raise ValueError("config and extra must have fields")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise SetupError(
            f"{path}: no readable model config ({str(error)[:200]}); give the folder a model was saved to"
        ) from error
    return content

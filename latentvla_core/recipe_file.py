"""A recipe of one's own: a YAML file that names a recipe and says what is different.

    base: mini
    latent: {size: long, preset: no_cycle, training: {seed: 1}}
    latent_gate: {size: long}
    planner: {train: {training: {steps: 500}}}

The file's name is the recipe's. Every fault is told at once, with its place in the file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_type_hints

from latentvla_core.errors import SetupError

Section = TypeVar("Section")
SUFFIXES = (".yaml", ".yml")
BASE, SIZE, PRESET = "base", "size", "preset"


def is_recipe_file(name: str) -> bool:
    """Does LATENTVLA_RECIPE name a file, not a recipe?"""
    return name.endswith(SUFFIXES)


def read_changes(path: Path | str) -> tuple[str, dict[str, Any]]:
    """Name of the base recipe, and the sections that differ. Raises SetupError for a file that is
    no recipe.
    """
    changes = _mapping(Path(path))
    return str(changes.pop(BASE, "mini")), changes


def changed(recipe: Section, changes: Mapping[str, Any], path: Path | str) -> Section:
    """The recipe with its changes and the file's name. Raises SetupError that lists every fault by
    place, value and rule.
    """
    faults: list[str] = []
    found = _changed(recipe, {"name": Path(path).stem, **changes}, (type(recipe), ""), "", faults)
    if faults:
        raise SetupError(
            f"recipe {path}: {len(faults)} fault(s):"
            + "".join(f"\n  - {fault}" for fault in faults)
        )
    return found


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SetupError(
            f"recipe {path}: {error}; give a readable YAML file (examples/long.yaml)"
        ) from error
    if not isinstance(content, dict):
        raise SetupError(
            f"recipe {path} holds {content!r}; needs a mapping of sections (examples/long.yaml)"
        )
    return content


def _changed(
    value: Any, change: Any, field: tuple[type, str], where: str, faults: list[str]
) -> Any:
    """The value with its changes, checked against the types of its fields; faults are added to the
    list.
    """
    if not is_dataclass(value):
        return _checked(change, field, where, faults)
    if not isinstance(change, Mapping):
        faults.append(f"{where} is {change!r}; needs fields of {', '.join(_names(value))}")
        return value
    value, change = _sized(value, dict(change), where, faults)
    value = _preset(value, change, where, faults)
    faults += [_unknown(value, n, where) for n in change if n not in _names(value)]
    found = {}
    for n in (n for n in _names(value) if n in change):
        known = len(faults)
        new = _changed(getattr(value, n), change[n], (type(value), n), _place(where, [n]), faults)
        if len(faults) == known or is_dataclass(new):
            found[n] = new  # a value that is no value is told once, and not judged again
    try:
        return replace(value, **found)  # pyright: ignore[reportArgumentType]
    except (ValueError, SetupError) as error:
        faults.append(f"{where or 'recipe'}: {error}")
        return value


def _unknown(section: Any, name: str, where: str) -> str:
    """What is known instead; and where the name is, when it is one level deeper."""
    deeper = [
        part
        for part in _names(section)
        if is_dataclass(getattr(section, part)) and name in _names(getattr(section, part))
    ]
    hint = "".join(f"; did you mean {_place(where, [part, name])}?" for part in deeper)
    return f"{_place(where, [name])} is no field; known are {', '.join(_names(section))}{hint}"


def _checked(value: Any, field: tuple[type, str], where: str, faults: list[str]) -> Any:
    """A value as the type of the field (class, name) wants it: a list becomes a tuple, 2e-3 a
    number.
    """
    from pydantic import TypeAdapter, ValidationError

    owner, name = field
    try:
        return TypeAdapter(_hint(owner, name)).validate_python(value)
    except ValidationError as error:
        faults += [
            f"{_place(where, fault['loc'])} is {fault['input']!r}; {fault['msg']}"
            for fault in error.errors()
        ]
        return None


def _hint(owner: type, name: str) -> Any:
    """Type of one field; `Recipe` names classes that are imported only where they are used, so not
    all fields at once.
    """
    alone = SimpleNamespace(__annotations__={name: owner.__annotations__[name]})
    return get_type_hints(alone, vars(sys.modules[owner.__module__]))[name]


def _place(where: str, parts: Iterable[Any]) -> str:
    return ".".join(filter(None, [where, *map(str, parts)]))


def _names(value: Any) -> list[str]:
    return [field.name for field in fields(value)]


def _sized(
    section: Any, change: dict[str, Any], where: str, faults: list[str]
) -> tuple[Any, dict[str, Any]]:
    """The section's class in the size that the change asks for, and the rest of the change."""
    if SIZE not in change:
        return section, change
    size = change.pop(SIZE)
    make = getattr(type(section), str(size), None)
    sizes = [
        n
        for n, v in vars(type(section)).items()
        if isinstance(v, classmethod) and not n.startswith("_")
    ]
    if str(size) not in sizes or make is None:
        faults.append(f"{where}.{SIZE} is {size!r}; known are {', '.join(sizes) or 'none'}")
        return section, {}
    return make(), change


def _preset(section: Any, change: dict[str, Any], where: str, faults: list[str]) -> Any:
    """The section as the named variant that the change asks for, whose name is taken out; latent
    action models have some.
    """
    if PRESET not in change:
        return section
    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.latent.presets import preset

    if not isinstance(section, LatentActionConfig):
        return section
    try:
        return preset(str(change.pop(PRESET)), section)
    except (ValueError, SetupError) as error:
        faults.append(f"{where}.{PRESET}: {error}")
        return section

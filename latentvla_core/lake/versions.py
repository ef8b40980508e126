"""Versions of tables as a user names them: `TABLE=VERSION`, or a model that was trained on them."""

from __future__ import annotations

from typing import Any

from latentvla_core.errors import SetupError


def versions_of(lake: Any, at: list[str]) -> dict[str, int]:
    """Table → Delta version, of `--at` options."""
    from latentvla_core.tables import TABLES

    versions: dict[str, int] = {}
    for text in at:
        name, is_version, number = text.partition("=")
        if not is_version:
            versions |= lake.trained_on(*name.split("/", 1))
        elif name in TABLES and number.isdecimal():
            versions[name] = int(number)
        else:
            raise SetupError(
                f"--at is {text!r}; use TABLE=VERSION (tables: {', '.join(TABLES)}), MODEL or MODEL/VERSION"
            )
    return versions

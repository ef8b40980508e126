"""YAML that strangers wrote: small, without aliases that unfold, with the fault in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentvla_core.errors import SetupError

LARGEST_B = 4_000_000
MOST_ALIASES = 100


def read_yaml(path: Path) -> Any:
    """What a YAML file holds; None and an empty file give {}. Raises SetupError, without the file's
    name, when it is no YAML, too large, or unfolds by nested aliases.
    """
    import yaml

    try:
        if path.stat().st_size > LARGEST_B:
            raise SetupError(f"larger than {LARGEST_B:,} bytes; no description is that long")
        text = path.read_text(encoding="utf-8")
        loader = yaml.SafeLoader(text)
        aliases = sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text))
        if aliases > MOST_ALIASES:
            raise SetupError(f"{aliases} aliases; at most {MOST_ALIASES} are read: write it out")
        found = loader.get_single_data()
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SetupError(f"not readable YAML ({str(error)[:300]})") from error
    return {} if found is None else found

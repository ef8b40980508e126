"""Writes docs/tables.md to standard output."""

from latentvla_core.tables import tables_page

print(tables_page(), end="")

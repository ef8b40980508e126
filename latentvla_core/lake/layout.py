"""How files of tables are laid out, so that one log is found without reading the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from deltalake import WriterProperties

TABLE_PROPERTIES = {
    "delta.enableExpiredLogCleanup": "false",  # else old versions could not be opened after a month
    # opening a table replays the commits since the last one, 1 ms each
    "delta.checkpointInterval": "20",
}
# of a file, what is decoded to find one log: its statistics tell which groups can hold it
ROWS_PER_GROUP = 16_384
STATISTICS_B = (
    256  # longer than any log name: names cut to their common start tell no group from the next
)


def file_layout(compression: Literal["SNAPPY", "ZSTD"] = "SNAPPY") -> WriterProperties:
    """How data files are written: rows in groups small enough that one log is found without
    decoding its shard.
    """
    from deltalake import WriterProperties

    return WriterProperties(
        compression=compression,
        max_row_group_size=ROWS_PER_GROUP,
        statistics_truncate_length=STATISTICS_B,
    )

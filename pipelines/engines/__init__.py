"""Who does the shards of an asset: this process, processes of this machine, or a Ray cluster.

The unit of work is one (stage, partition) pair, `unit.do`. Whoever does it writes the rows and the
ledger as `Engine.execute` always does, so tables are equal whoever did it, and a unit that died is
simply done again.
"""

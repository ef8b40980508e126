"""The report: one page that says what a lake's scores are, what they are not, and where they come
from.

`facts.py` reads, `board.py`, `worst.py` and `lineage.py` draw, `page.py` puts the page together.
"""

"""`latentvla view`: a static site of drives, scenes, codes, plans and scores, made from the lake.

It opens from `file://`, from a bucket or from a mail: pages are plain HTML, CSS and JavaScript, and
data are `.js` files that hand one value to the page (`LV.put`), since a browser refuses to fetch
JSON from disk. `export.py` writes it, log by log; `assets/` shows it.
"""

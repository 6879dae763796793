"""Published data sets to the one manifest: a small reader for each, and one importer for all (docs/datasets.md).

A reader (``chexpert.py``, ``mimic.py``, ...) turns a data set's tables into entries, in the order of its main table.
It looks for no image and draws no split; ``importer.py`` does both, the same way for every kind. ``registry.py`` lists
the kinds. Tables are streamed; only what has to be joined is held in memory.
"""

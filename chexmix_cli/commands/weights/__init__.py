"""``chexmix weights``: list, describe, check, convert, export and fetch models."""

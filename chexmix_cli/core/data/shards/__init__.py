"""Token shards: image codes, report token ids and labels of many images, in files that are mapped, not loaded.

A shard set is a folder. ``shards.json`` says what made the tokens, and, once all is there, how much that is.
``shard-00000.safetensors`` and on hold tensors, ``shard-00000.jsonl`` beside each a line for every input it covers,
those that gave no codes too.
"""

from chexmix_cli.core.data.shards.identity import ShardIdentity
from chexmix_cli.core.data.shards.merge import find_sets, merge_sets
from chexmix_cli.core.data.shards.reader import ShardRow, ShardSet
from chexmix_cli.core.data.shards.verify import verify_set
from chexmix_cli.core.data.shards.writer import ShardWriter

__all__ = ["ShardIdentity", "ShardRow", "ShardSet", "ShardWriter", "find_sets", "merge_sets", "verify_set"]

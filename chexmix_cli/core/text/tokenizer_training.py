"""Trains the byte-level BPE of our own models; its ids are laid out as ``vocab.compact()`` says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from chexmix_cli.core.errors import TrainingError
from chexmix_cli.core.files import write_text
from chexmix_cli.core.text.tokenizer import BEGIN_IMAGE, END_IMAGE, END_OF_TEXT

_NUM_BYTES = 256


def train_tokenizer(texts: Iterable[str], num_text: int, path: Path) -> int:
    """Write ``tokenizer.json`` of exactly ``num_text`` ids; the same texts give the same file.

    Ids: 256 bytes, merges by frequency, then ``<|endoftext|>``, ``<|img|>`` and ``<|/img|>`` last. Where the texts
    have fewer merges than fit, rows named ``<|unused N|>`` fill the gap before the last three.

    Returns:
        The number of unused rows.

    Raises:
        TrainingError: if ``num_text`` leaves no room for bytes and specials.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    specials = (END_OF_TEXT, BEGIN_IMAGE, END_IMAGE)
    room = num_text - len(specials)
    if room < _NUM_BYTES:
        raise TrainingError(f"num_text is {num_text}", expected=f"at least {_NUM_BYTES + len(specials)}")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=room, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    unused = room - tokenizer.get_vocab_size()
    names = [f"<|unused {number}|>" for number in range(unused)] + list(specials)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    write_text(path, tokenizer.to_str(pretty=True) + "\n")
    return unused

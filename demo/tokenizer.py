"""Train the demo model's SentencePiece vocabulary on the corpus.

    python demo/tokenizer.py demo/model/tokenizer.model

Byte-pair pieces, byte fallback, single digits, ``[INST]`` and ``[/INST]`` whole. Merges with a capital
letter are dropped: "Milo" is cut the same way after a space and after a quotation mark, which is what makes
copying a name into JSON learnable.
"""

import itertools
import sys
from pathlib import Path

import corpus

VOCABULARY = 2048


def lines(count: int) -> list[str]:
    """The texts of ``count`` dialogues."""
    out: list[str] = []
    for dialogue in itertools.islice(corpus.dialogues(987654), count):
        out += [text for _, user, answer in dialogue["turns"] for text in (f"[INST] {user} [/INST]", answer)]
        if dialogue["system"]:
            out.append(dialogue["system"])
    return [line for text in out for line in text.split("\n")]


def train(path: Path, dialogues: int = 60_000) -> None:
    """Write a model of :data:`VOCABULARY` pieces to ``path``."""
    import sentencepiece as spm

    prefix = str(path.with_suffix(""))
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines(dialogues)),
        model_prefix=prefix,
        vocab_size=4000,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        user_defined_symbols=["[INST]", "[/INST]"],
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        character_coverage=0.9999,
        max_sentence_length=8000,
        minloglevel=2,
        num_threads=2,
    )
    path.write_bytes(prune(path.read_bytes(), VOCABULARY))
    Path(prefix + ".vocab").unlink(missing_ok=True)


def prune(model: bytes, size: int) -> bytes:
    """A serialized SentencePiece model without merges that hold a capital letter, cut to ``size`` pieces."""
    import sentencepiece as spm

    pieces = spm.SentencePieceProcessor(model_proto=model)
    records, rest = fields(model)
    ids = range(len(records))
    text = [pieces.id_to_piece(i) for i in ids]
    merge = [(pieces.get_score(i) != 0 and len(text[i]) > 1) or (i > 260 and len(text[i]) > 1) for i in ids]
    kept = [i for i in ids if not merge[i] or text[i] == text[i].lower()]
    last = [i for i in kept if merge[i]]  # in order of rank
    drop = set(last[len(last) - (len(kept) - size) :])
    return b"".join(records[i] for i in kept if i not in drop) + rest


def fields(model: bytes) -> tuple[list[bytes], bytes]:
    """The records of the pieces (field 1 of the protocol buffer, all of it length-delimited) and what
    follows them.
    """
    at, records = 0, []
    while at < len(model) and model[at] == 0x0A:
        length, shift, end = 0, 0, at + 1
        while True:
            byte = model[end]
            length |= (byte & 0x7F) << shift
            shift, end = shift + 7, end + 1
            if byte < 0x80:
                break
        records.append(model[at : end + length])
        at = end + length
    return records, model[at:]


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    train(target)

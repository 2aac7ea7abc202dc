"""BERT's uncased tokenizer: text to the ids of vocab.txt.

vocab.txt is the vocabulary of bert-base-uncased, unchanged (Google, https://github.com/google-research/bert, under
Apache-2.0: vocab-license.txt); all-MiniLM-L6-v2 uses it.
The rules are those of BERT's BasicTokenizer and WordpieceTokenizer (Devlin et al., 2019).
"""

from __future__ import annotations

import string
import unicodedata
from functools import cache
from pathlib import Path

VOCABULARY = Path(__file__).with_name("vocab.txt")
LONGEST_WORD = 100  # characters; longer words become [UNK], as in BERT


@cache
def vocabulary() -> dict[str, int]:
    """Token -> id."""
    return {token: index for index, token in enumerate(VOCABULARY.read_text(encoding="utf-8").split("\n")[:-1])}


def encode(text: str, limit: int) -> list[int]:
    """Token ids of ``text`` between [CLS] and [SEP], at most ``limit`` in all."""
    ids = vocabulary()
    pieces = [piece for word in _words(text) for piece in _pieces(word, ids)]
    return [ids["[CLS]"], *pieces[: limit - 2], ids["[SEP]"]]


def _words(text: str) -> list[str]:
    """Lower case without accents; punctuation and CJK ideographs are words of their own."""
    spaced = []
    for character in unicodedata.normalize("NFC", text):
        category = unicodedata.category(character)
        if character in "\t\n\r" or category == "Zs":
            spaced.append(" ")
        elif character in "\0\ufffd" or category.startswith("C"):
            continue
        elif _is_ideograph(ord(character)):
            spaced.append(f" {character} ")
        else:
            spaced.append(character)
    plain = unicodedata.normalize("NFD", "".join(spaced).lower())
    separated = (
        f" {character} " if _is_punctuation(character) else character
        for character in plain
        if unicodedata.category(character) != "Mn"
    )
    return "".join(separated).split()


def _pieces(word: str, ids: dict[str, int]) -> list[int]:
    """Greedy longest match first; a word with an unknown rest is [UNK] as a whole."""
    if len(word) > LONGEST_WORD:
        return [ids["[UNK]"]]
    found: list[int] = []
    start = 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in ids:
                found.append(ids[piece])
                start = end
                break
        else:
            return [ids["[UNK]"]]
    return found


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _is_ideograph(code: int) -> bool:
    ranges = (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    )
    return any(low <= code <= high for low, high in ranges)

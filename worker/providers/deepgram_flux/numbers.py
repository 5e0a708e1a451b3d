"""Recognizes words that may later become part of a number in digits, or be redacted. Pure."""

from __future__ import annotations

from typing import Final

from .words import plain

_SPELLED: Final = (
    # English, German, Dutch
    "zero oh nought one two three four five six seven eight nine ten eleven twelve hundred "
    "thousand million billion trillion dozen half double triple point first second third "
    "fourth fifth sixth seventh eighth ninth tenth "
    "null ein eins eine einen zwei zwo drei vier fünf sechs sieben acht neun zehn elf zwölf "
    "million millionen milliarde milliarden komma nul een één twee drie vijf zes zeven negen tien "
    "twaalf miljoen miljard "
    # Spanish, Portuguese, Italian, French
    "cero uno una dos tres cuatro cinco seis siete ocho nueve diez once doce trece catorce quince "
    "veinte cien mil millón millones zero um uma dois duas três quatro sete oito nove dez onze "
    "doze treze quatorze quinze vinte cem milhão milhões due tre quattro cinque sei sette otto "
    "dieci undici dodici tredici quattordici quindici sedici venti mille mila milione milioni "
    "zéro un une deux trois quatre cinq sept huit neuf dix douze treize seize vingt vingts cent "
    "cents million millions "
    # Russian
    "ноль один одна два две три четыре пять шесть семь восемь девять десять сорок сто двести "
    "триста четыреста тысяча тысячи тысяч миллион миллиона миллионов "
    # Hindi
    "शून्य एक दो तीन चार पांच पाँच छह छः सात आठ नौ दस बीस तीस चालीस पचास साठ सत्तर अस्सी नब्बे सौ "
    "हज़ार हजार लाख करोड़"
)
_WORDS: Final = frozenset(_SPELLED.split())
_ENDINGS: Final = (
    *("teen", "ty", "tieth", "teenth", "zig", "ßig", "zehn", "hundert", "tausend", "tig", "tien"),
    *("honderd", "duizend", "enta", "inta", "anta", "ante", "ente", "cento", "mila", "cientos"),
    *("centos", "надцать", "дцать", "десят", "сот"),
)
_CHARACTERS: Final = frozenset("〇零一二三四五六七八九十百千万億%$€£*[]")
"""Includes characters that replace redacted text."""


def is_number(text: str) -> bool:
    """Whether a word is, or may be part of, a number. It errs toward True."""
    if any(character.isdigit() or character in _CHARACTERS for character in text):
        return True
    return any(part in _WORDS or part.endswith(_ENDINGS) for part in plain(text).split("-"))

"""Makes events that exceed the broker's max_payload smaller. Pure.

A final is divided, because its words must not be lost. Other events lose their longest parts.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from natterjack.plugin.provider import Final, ProviderWord
from natterjack.values import Account

ELLIPSIS = "…"
"""The end of a text that was shortened."""
_TEXTS = ("text", "reason", "detail", "text_spoken", "text_remaining")


def divided(final: Final) -> tuple[Final, ...]:
    """Divide a final into two that follow one another, between two words near its middle.

    Words keep their times. The texts, joined with a space or without one, are the final's text. A
    final of at most one word is divided at a space or, without one, between characters, and its
    times are estimated. One that cannot be divided loses everything but its text: the result is
    that final alone, or nothing if it has no more to lose.
    """
    words = final.words
    if len(words) > 1:
        parts = _before_word(final, _word_boundary(words))
    else:
        cut = _middle(final.text)
        first, second, at = _parts_of_word(final, cut)
        parts = _parts(final, cut, first, second, at, estimated=True)
    if parts:
        return parts
    bare = replace(final, words=(), confidence=None, language=None)
    return () if bare == final else (bare,)


def without_last_word(final: Final) -> Final | None:
    """A final without its last word; None if it has no other, or its text is not that of the
    words."""
    if "".join(_solid(word.text) for word in final.words) != _solid(final.text):
        return None
    parts = _before_word(final, len(final.words) - 1) if len(final.words) > 1 else ()
    return parts[0] if parts else None


def _before_word(final: Final, index: int) -> tuple[Final, ...]:
    """Divide a final before the word with `index`. Nothing if a part has no text."""
    words = final.words
    at, known = _time_between(final, index)
    cut = _text_boundary(final.text, words, index)
    return _parts(final, cut, words[:index], words[index:], at, estimated=not known)


def _parts(
    final: Final,
    cut: int,
    first: tuple[ProviderWord, ...],
    second: tuple[ProviderWord, ...],
    at: float,
    *,
    estimated: bool,
) -> tuple[Final, ...]:
    """The two parts of a final, whose text is divided at `cut` and whose time is divided at `at`.
    Nothing if a part has no text."""
    texts = final.text[:cut].strip(), final.text[cut:].strip()
    if not all(texts):
        return ()
    estimated = estimated or final.times_estimated
    return (
        replace(final, text=texts[0], end=at, words=first, times_estimated=estimated),
        replace(final, text=texts[1], start=at, words=second, times_estimated=estimated),
    )


def _parts_of_word(
    final: Final, cut: int
) -> tuple[tuple[ProviderWord, ...], tuple[ProviderWord, ...], float]:
    """The words of both parts of a final that has at most one, and the time between them."""
    text, share = final.text, cut / max(1, len(final.text))
    if not final.words or _solid(final.words[0].text) != _solid(text):
        return final.words, (), final.start + (final.end - final.start) * share
    (word,) = final.words
    start, end = _known(word.start), _known(word.end)
    start = final.start if start is None else start
    end = max(start, final.end if end is None else end)
    at = start + (end - start) * share
    first = word._replace(text=text[:cut].strip(), end=at)
    second = word._replace(text=text[cut:].strip(), start=at)
    return (first,), (second,), min(max(at, final.start), final.end)


def _word_boundary(words: Sequence[ProviderWord]) -> int:
    """The index of the word that begins the second part: if possible, one that begins after the
    word before has ended, since a worker may have to resume between the parts."""
    count = len(words)
    middle = count // 2
    for distance in range(max(1, count // 4)):
        for index in (middle - distance, middle + distance):
            if 0 < index < count:
                before, after = _known(words[index - 1].end), _known(words[index].start)
                if before is not None and after is not None and before <= after:
                    return index
    return middle


def _text_boundary(text: str, words: Sequence[ProviderWord], index: int) -> int:
    """Where the text of `words[index:]` begins in the text of `words`."""
    parts = [_solid(word.text) for word in words]
    length = sum(map(len, parts[:index]))
    whole = sum(map(len, parts))
    if "".join(parts) != _solid(text) or length in (0, whole):
        # The text is written differently, such as numbers, or a word has no text.
        return _middle(text, index / len(words))
    for cut, character in enumerate(text):
        if not character.isspace():
            if not length:
                return cut
            length -= 1
    raise AssertionError("the words are longer than their text")


def _solid(text: str) -> str:
    """A text without its spaces."""
    return "".join(text.split())


def _middle(text: str, share: float = 0.5) -> int:
    """The index of the space that is nearest to `share` of the text; without spaces, that of a
    character."""
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    middle = begin + round((end - begin) * share)
    # Searched by the string's own methods: a text of megabytes must not block the event loop.
    before, after = text[begin:middle], text[middle:end]
    left = len(before) - len(before.rstrip())
    left = 1 if left else len(before.rsplit(None, 1)[-1]) + 1 if before else len(text)
    right = len(after) - len(after.lstrip())
    right = 0 if right else len(after.split(None, 1)[0]) if after else len(text)
    places = [at for at in (middle - left, middle + right) if begin < at < end]
    if places:
        return min(places, key=lambda at: abs(at - middle))
    while middle > begin + 1 and unicodedata.combining(text[middle]):
        middle -= 1
    return middle


def _time_between(final: Final, index: int) -> tuple[float, bool]:
    """The time between two words, and whether both have their times. Times that are missing are
    estimated from the lengths of the words."""
    words, lengths = final.words, [len(word.text) for word in final.words]
    before, left = index - 1, final.start
    while before >= 0 and (known := _known(words[before].end)) is None:
        before -= 1
    if before >= 0:
        assert known is not None
        left = known
    after, right = index, final.end
    while after < len(words) and (known := _known(words[after].start)) is None:
        after += 1
    if after < len(words):
        assert known is not None
        right = known
    share = (sum(lengths[before + 1 : index]) + 0.5) / (sum(lengths[before + 1 : after]) + 1)
    at = min(max(left + (right - left) * share, final.start), final.end)
    return at, (before, after) == (index - 1, index)


def _known(seconds: float | None) -> float | None:
    return seconds if seconds is not None and math.isfinite(seconds) else None


def shortened(fields: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of a smaller event, marked as shortened; None if nothing can be left out.

    The request of a closing event goes first, then the labels. Then the largest of the parts that
    are not essential goes: the words of an interim altogether, half of a text or of the listed
    gaps. The use of each provider goes last.
    """
    for whole in ("request", "labels"):
        if fields.get(whole):
            return {**fields, "shortened": True, whole: None}
    account: Account | None = fields.get("account")
    sizes = {name: len(fields.get(name) or "") - len(ELLIPSIS) for name in _TEXTS}
    sizes["words"] = 50 * len(fields.get("words") or ())
    sizes["gaps"] = 50 * len(account.gaps) if account is not None else 0
    name = max(sizes, key=lambda name: sizes[name])
    smaller = {**fields, "shortened": True}
    if sizes[name] <= 0:
        if account is not None and account.providers:
            return {**smaller, "account": account.model_copy(update={"providers": {}})}
        return {**smaller, "providers": {}} if fields.get("providers") else None
    if name == "words":
        smaller["words"] = []
    elif name == "gaps":
        assert account is not None
        gaps = account.gaps[: len(account.gaps) // 2]
        smaller["account"] = account.model_copy(update={"gaps": gaps})
    else:
        text = fields[name].removesuffix(ELLIPSIS)
        smaller[name] = text[: len(text) // 2].rstrip() + ELLIPSIS
    return smaller

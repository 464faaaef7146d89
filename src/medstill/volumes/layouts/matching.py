"""Which image belongs to which label, by their names alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile

_WORDS = re.compile(r"\d+|[a-z]+")

Words = Counter[str]


def match(images: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Pair the stems of images and labels.

    Equal stems are pairs. The others are compared by their words and numbers (`21_training` is
    `21` and `training`): those that all names of a side share say nothing and are dropped; two
    names whose numbers contradict each other are no pair; of the rest, the two that share most
    (on equality: the longest equal beginning and end) are a pair if each is the other's best.

    Args:
        images: Stems of the images, each once.
        labels: Stems of the labels.

    Returns:
        Image stem -> its label's stem; several stems where equally many fit (ambiguous). Images
        that no label fits are left out.
    """
    exact = {name: (name,) for name in images if name in set(labels)}
    open_images = [name for name in images if name not in exact]
    open_labels = [name for name in dict.fromkeys(labels) if name not in exact]
    image_words, label_words = _telling(open_images), _telling(open_labels)
    scores = _scores(image_words, label_words)
    best_labels = _best(scores)
    best_images = _best(
        {
            label: {image: row[label] for image, row in scores.items() if label in row}
            for label in open_labels
        }
    )
    paired = {
        image: tuple(label for label in sorted(found) if image in best_images[label])
        for image, found in best_labels.items()
    }
    contested = {
        label: {image for image, found in paired.items() if label in found} for label in open_labels
    }
    # A label that two images claim equally is given to neither.
    sure = {
        image: found
        for image, found in paired.items()
        if found and all(len(contested[label]) == 1 for label in found)
    }
    return {**exact, **sure}


def _telling(names: Sequence[str]) -> dict[str, Words]:
    """The words of each name without those that all names share."""
    words = {name: Counter(map(_plain, _WORDS.findall(name.lower()))) for name in names}
    if len(words) < 2:
        return words
    shared: Words = next(iter(words.values())).copy()
    for other in words.values():
        shared &= other
    telling = {name: own - shared for name, own in words.items()}
    # Names of the same words in another order (p1_s2, p2_s1) differ by their order alone.
    return telling if all(telling.values()) else words


def _plain(word: str) -> str:
    return str(int(word)) if word.isdigit() else word


def _scores(
    images: Mapping[str, Words], labels: Mapping[str, Words]
) -> dict[str, dict[str, tuple[int, int]]]:
    holders: dict[str, list[str]] = defaultdict(list)
    for label, words in labels.items():
        for word in words:
            holders[word].append(label)
    scores: dict[str, dict[str, tuple[int, int]]] = {}
    for image, words in images.items():
        candidates = {label for word in words for label in holders[word]}
        scores[image] = {
            label: (_shared(words, labels[label]), _ends(image, label))
            for label in sorted(candidates)
            if _agree(words, labels[label])
        }
    return scores


def _shared(first: Words, second: Words) -> int:
    return sum(len(word) * count for word, count in (first & second).items())


def _agree(first: Words, second: Words) -> bool:
    """Whether the numbers of one name are all in the other."""
    ours, theirs = _numbers(first), _numbers(second)
    return ours <= theirs or theirs <= ours


def _numbers(words: Words) -> Words:
    return Counter({word: count for word, count in words.items() if word.isdigit()})


def _ends(first: str, second: str) -> int:
    """Length of the equal beginning and the equal end of two names."""
    return _beginning(first, second) + _beginning(first[::-1], second[::-1])


def _beginning(first: str, second: str) -> int:
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _best(scores: Mapping[str, Mapping[str, tuple[int, int]]]) -> dict[str, set[str]]:
    return {
        name: {other for other, score in row.items() if score == max(row.values())}
        for name, row in scores.items()
    }

"""Small tasks with one right answer, of sorts that the packaged teacher mostly gets right; its score is the ceiling.

Sorts that it fails (counting on, sorting, spelling, comparing numbers) are left out: a student that imitates it could
not learn them. The list is fixed, so that every student answers the same. With each answer go two or three wrong ones,
which are right answers of other tasks of the same sort or other words of the list.
"""

from collections.abc import Sequence

from speckd.runs.figures import Task

_WORDS = ("apple", "river", "stone", "garden", "window", "paper", "candle", "bridge", "silver", "orange")
_CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Germany": "Berlin", "Spain": "Madrid",
             "Egypt": "Cairo", "Russia": "Moscow", "China": "Beijing", "Greece": "Athens",
             "England": "London"}  # fmt: skip
_OPPOSITES = {"hot": "cold", "big": "small", "up": "down", "fast": "slow", "happy": "sad", "light": "dark",
              "old": "young", "rich": "poor"}  # fmt: skip
_LANGUAGES = {"France": "French", "Germany": "German", "Spain": "Spanish", "Italy": "Italian", "Japan": "Japanese",
              "Brazil": "Portuguese"}  # fmt: skip


def _of_a_sort(kind: str, asked: Sequence[tuple[str, str]]) -> list[Task]:
    """Tasks of prompts and answers; the wrong answers of each are those of the three that follow it."""
    answers = list(dict.fromkeys(answer for _, answer in asked))

    def others(answer: str) -> tuple[str, ...]:
        at = answers.index(answer)
        return tuple(dict.fromkeys((answers[at + 1 :] + answers[:at])[:3]))

    return [Task(kind, prompt, answer, others(answer)) for prompt, answer in asked]


def _tasks() -> tuple[Task, ...]:
    found = _of_a_sort("copying", [(f'Say only the word "{word}".', word) for word in _WORDS[:8]])
    capitals = [(f'Write the word "{word}" in capital letters.', word.upper()) for word in _WORDS[2:8]]
    found += _of_a_sort("spelling", capitals)
    plurals = [(f"What is the plural of {word}?", f"{word}s") for word in ("river", "stone", "candle")]
    found += _of_a_sort("spelling", plurals)
    lists = [_WORDS[start : start + 3] for start in range(0, 8, 2)]
    found += [
        Task("order", f"What is the {place} word of this list: {', '.join(words)}?", words[index],
             tuple(word for word in words if word != words[index]))
        for words in lists
        for place, index in (("first", 0), ("last", -1))
    ]  # fmt: skip
    found += _of_a_sort("fact", [(f"What is the capital of {land}?", city) for land, city in _CAPITALS.items()])
    found += _of_a_sort("fact", [(f"What is the opposite of {word}?", other) for word, other in _OPPOSITES.items()])
    found += _of_a_sort("fact", [(f"Which language is spoken in {land}?", name) for land, name in _LANGUAGES.items()])
    return tuple(found)


TASKS = _tasks()

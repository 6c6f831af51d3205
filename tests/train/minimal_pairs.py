"""The rule that `examining/evaluations/grammar.json` is made by: pairs of sentences of which one is English.

python tests/train/minimal_pairs.py > src/allod/train/evaluation/evaluations/grammar.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product

NOUNS = (("sister", "sisters"), ("letter", "letters"), ("house", "houses"), ("horse", "horses"), ("friend", "friends"))
ADJECTIVES = ("old", "good", "small", "new", "beautiful")
PLACES = ("at the window", "in the room", "near the garden", "by the door", "on the road")
PARTICIPLES = (
    ("written", "wrote", "a letter"), ("taken", "took", "the book"), ("seen", "saw", "the king"),
    ("given", "gave", "an answer"), ("begun", "began", "the work"), ("known", "knew", "the truth"),
    ("spoken", "spoke", "the words"), ("broken", "broke", "the glass"),
)  # fmt: skip
PRONOUNS = (("me", "I"), ("him", "he"), ("her", "she"), ("us", "we"), ("them", "they"))
PERSONS = (("man", "himself", "herself"), ("king", "himself", "herself"), ("father", "himself", "herself"),
           ("brother", "himself", "herself"), ("lady", "herself", "himself"), ("queen", "herself", "himself"),
           ("mother", "herself", "himself"), ("sister", "herself", "himself"))  # fmt: skip
VERBS = (("go", "went"), ("see", "saw"), ("come", "came"), ("take", "took"), ("give", "gave"))


def pairs() -> Iterator[tuple[str, str, str]]:
    """Phenomenon, the English sentence, the other."""
    for (one, many), adjective in product(NOUNS, ADJECTIVES):
        yield "agreement", f"The {many} were {adjective}.", f"The {many} was {adjective}."
        yield "agreement", f"The {one} is {adjective}.", f"The {one} are {adjective}."
    for (_, many), place in product(NOUNS, PLACES):
        yield "distant agreement", f"The {many} {place} are here.", f"The {many} {place} is here."
    for one, many in NOUNS:
        for verb in ("saw", "knew", "wanted"):
            yield "determiner", f"She {verb} these {many}.", f"She {verb} this {many}."
            yield "determiner", f"She {verb} this {one}.", f"She {verb} these {one}."
    for (right, wrong), verb in product(PRONOUNS, ("came to", "looked at", "spoke of", "went with")):
        yield "case", f"The old man {verb} {right}.", f"The old man {verb} {wrong}."
    for participle, past, thing in PARTICIPLES:
        for who in ("She has", "They have", "He had"):
            yield "participle", f"{who} {participle} {thing}.", f"{who} {past} {thing}."
    for person, right, wrong in PERSONS:
        for verb in ("found", "called", "asked"):
            yield "reflexive", f"The {person} {verb} {right}.", f"The {person} {verb} {wrong}."
    for verb, past in VERBS:
        for modal in ("could", "will", "did", "must", "should"):
            yield "modal", f"They {modal} not {verb}.", f"They {modal} not {past}."
    for one, _ in NOUNS:
        for adjective in ("old", "honest", "ugly"):
            yield "article", f"It was an {adjective} {one}.", f"It was a {adjective} {one}."


def text() -> str:
    """The file. Which choice is the English one alternates."""
    numbers: dict[str, int] = {}
    questions = []
    for phenomenon, right, wrong in pairs():
        number = numbers[phenomenon] = numbers.get(phenomenon, 0) + 1
        answer = number % 2
        choices = [wrong, right] if answer else [right, wrong]
        name = f"{phenomenon.replace(' ', '-')}-{number}"
        questions.append({"id": name, "prompt": "", "choices": choices, "answer": answer})
    origin = "minimal pairs made by rule (tests/train/minimal_pairs.py), after the idea of BLiMP, arXiv:1912.00582"
    head = json.dumps({"name": "grammar", "licence": "Apache-2.0", "origin": origin})[1:-1]
    lines = ",\n".join(json.dumps(question) for question in questions)
    return f'{{{head}, "questions": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    print(text(), end="")

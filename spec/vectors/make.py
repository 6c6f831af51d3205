"""Write the test vectors of the two specifications; keys and times are fixed, so the files change only by intent.

PYTHONPATH=src python spec/vectors/make.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from allod.core.canonical import JsonValue, canonical_json
from allod.core.requests import chat_answer
from allod.core.statements.receipt import (
    AnswerPart,
    EnginePart,
    MeterPart,
    ModelPart,
    PolicyPart,
    Receipt,
    RequestPart,
    SealPart,
    SitePart,
    statement_bytes,
)
from allod.core.statements.shapes import LAST_MS
from allod.prove.formats.merkle import Frontier, consistency_proof, inclusion_proof, leaf_hash, range_root
from allod.prove.formats.notes import DASH, ED25519_COSIGNATURE, VerifierKey, signature_line
from allod.prove.formats.proofs import Proof
from allod.prove.formats.signing_key import SigningKey
from allod.prove.formats.tree_head import TreeHead
from allod.prove.receipts.bundle import Bundle, Opening, encode_bundle
from allod.prove.receipts.commitments import commitment, nonce_of, pseudonym_of, salt_of

HERE = Path(__file__).parent
C2SP = "5ba5ee830903e91240fc6f9f3a7a9293d49e69c9"
DAY_KEY = bytes(range(32))
TENANT = "housing"
REQUEST = '{"messages":[{"content":"Pryd mae’r swyddfa’n agor?","role":"user"}],"model":"smollm2"}'
ANSWER = chat_answer("Naw o’r gloch.\n", [{"name": "opening_hours", "arguments": '{"day":"Mon"}'}]).decode()
START_MS = 1_795_000_000_000
DIGESTS = {
    name: f"sha256:{number:064x}" for number, name in enumerate(("weights", "build", "config", "policy", "seal"))
}
LABEL = {"tier": "OFFICIAL", "markings": ["SENSITIVE"], "jurisdictions": ["GB"], "purposes": None}
LOG = SigningKey("realm.example/receipts/site-1", bytes([1]) * 32)
OTHER_LOG = SigningKey("realm.example/receipts/site-1", bytes([2]) * 32)
HEARTBEAT: dict[str, JsonValue] = {
    "_type": "https://in-toto.io/Statement/v1",
    "predicateType": "urn:allod:heartbeat:v1",
    "subject": [{"name": "log", "digest": {"sha256": "ab" * 32}}],
    "predicate": {"id": "hb1", "at": {"start_ms": START_MS, "end_ms": START_MS}, "leaves": 4},
}


class Witness:
    """Signs cosignatures with a fixed key."""

    def __init__(self, name: str, seed: int) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        public = self._key.public_key().public_bytes_raw()
        self.key = VerifierKey(name, ED25519_COSIGNATURE, public)

    def cosign(self, text: str, seconds: int) -> str:
        signature = self._key.sign(f"cosignature/v1\ntime {seconds}\n{text}".encode())
        return signature_line(self.key.name, self.key.id, seconds.to_bytes(8, "big") + signature)


WITNESSES = [Witness(f"witness{number}.example", 10 + number) for number in (1, 2, 3)]
LOGGED = f"log {LOG.verifier_key}\nquorum none\n"
WITNESSED = (
    f"# two of three\nlog {LOG.verifier_key}\n"
    + "".join(f"witness w{number} {witness.key}\n" for number, witness in enumerate(WITNESSES, start=1))
    + "group both 2 w1 w2 w3\nquorum both\n"
)


def receipt(receipt_id: str = "rcpt_0001", **changes: Any) -> Receipt:
    """One answer; `changes` replace its fields."""
    salt = salt_of(DAY_KEY, receipt_id)
    fields: dict[str, Any] = {
        "id": receipt_id,
        "seq": 1,
        "nonce": nonce_of(salt),
        "start_ms": START_MS,
        "end_ms": START_MS + 1500,
        "request": RequestPart(commitment("request", salt, REQUEST.encode()), 21, {"seed": 7, "temperature_milli": 0}),
        "answer": AnswerPart(commitment("answer", salt, ANSWER.encode()), 9, "tool_calls"),
        "model": ModelPart("smollm2", DIGESTS["weights"]),
        "engine": EnginePart("llama.cpp", DIGESTS["build"], DIGESTS["config"], "exact"),
        "policy": PolicyPart(DIGESTS["policy"], LABEL, "permit", ("staff may ask",)),
        "seal": SealPart("sealed", DIGESTS["seal"]),
        "site": SitePart("site-1", "GB"),
        "tenant": pseudonym_of(DAY_KEY, TENANT),
        "sources": (commitment("passage", salt, b"Oriau agor: 9-17"),),
    }
    return Receipt(**{**fields, **changes})


def refusal() -> Receipt:
    """A refusal has no answer; here the request never reached a model."""
    forbid = PolicyPart(DIGESTS["policy"], LABEL, "forbid", ("no foreign model",))
    return receipt(answer=None, model=None, engine=None, seal=None, sources=(), policy=forbid)


def logged(
    statement: bytes,
    *,
    size: int = 5,
    index: int = 2,
    key: SigningKey = LOG,
    origin: str = LOG.name,
    cosign: Callable[[str], str] | None = None,
) -> Proof:
    """The proof of `statement` in a log of `size` entries, cosigned by what `cosign(head text)` adds."""
    leaves = [leaf_hash(statement if number == index else b"entry %d" % number) for number in range(size)]
    read = reader(leaves)
    note = key.sign(TreeHead(origin, size, range_root(read, 0, size)).text)
    if cosign is not None:
        note += cosign(note.partition("\n\n")[0] + "\n")
    return Proof(index, tuple(inclusion_proof(read, index, size)), note)


def reader(leaves: list[bytes]) -> Callable[[int, int], bytes]:
    """Subtree hashes, each computed from its leaves."""

    def read(height: int, index: int) -> bytes:
        tree = Frontier()
        tree.extend(leaves[index << height : (index + 1) << height])
        return tree.root()

    return read


def by(*numbers: int, seconds: int = START_MS // 1000 + 60) -> Callable[[str], str]:
    """Cosignatures of these witnesses."""
    return lambda text: "".join(WITNESSES[number - 1].cosign(text, seconds) for number in numbers)


def bundle(made: Receipt | None = None, *, opening: Opening | None = None, **log: Any) -> str:
    """A whole bundle as text."""
    statement = statement_bytes(made or receipt())
    return encode_bundle(Bundle(statement, logged(statement, **log), opening)).decode()


def open_(request: str | None = REQUEST, answer: str | None = ANSWER, *, receipt_id: str = "rcpt_0001") -> Opening:
    return Opening(salt_of(DAY_KEY, receipt_id), request, answer)


def altered(text: str, old: str, new: str) -> str:
    """`text` with the one occurrence of `old` replaced."""
    assert text.count(old) == 1, (text.count(old), old)
    return text.replace(old, new)


def statement_with(**changes: Any) -> str:
    """A bundle of a canonical statement whose predicate has these fields; the log has logged it all the same."""
    document = json.loads(statement_bytes(receipt()))
    document["predicate"].update(changes)
    return raw_statement(canonical_json(document))


def raw_statement(statement: bytes) -> str:
    return encode_bundle(Bundle(statement, logged(statement))).decode()


def good_cases() -> list[dict[str, Any]]:
    def case(
        name: str, text: str, trust: str = LOGGED, level: str = "logged", opened: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        return {"name": name, "bundle": text, "trust": trust, "level": level, "opened": list(opened)}

    indented = json.dumps(json.loads(bundle(opening=open_())), indent=2, ensure_ascii=True)
    return [
        case("an answer without its opening", bundle()),
        case("an answer with salt only", bundle(opening=open_(None, None))),
        case("an answer fully opened", bundle(opening=open_()), opened=("request", "answer")),
        case("written with spaces and escapes", indented, opened=("request", "answer")),
        case("a refusal", bundle(refusal(), opening=open_(answer=None)), opened=("request",)),
        case("the only entry", bundle(size=1, index=0)),
        case("the last of many", bundle(size=300, index=299)),
        case("another known type", raw_statement(canonical_json(HEARTBEAT))),
        case("two of three witnesses", bundle(cosign=by(1, 3)), WITNESSED, "witnessed"),
        case(
            "an unknown witness beside them",
            bundle(cosign=lambda t: Witness("x.example", 99).cosign(t, 1) + by(2, 1)(t)),
            WITNESSED,
            "witnessed",
        ),
        case("witnesses that nobody asked for", bundle(cosign=by(1))),
        case("with a meter", bundle(receipt(meter=MeterPart("0f" * 16, engine_ms=480, cached_tokens=3, micros=21)))),
        case("a text in another script", bundle(receipt(site=SitePart("Caerdydd \U0001f3f4 \u2028", "GB")))),
    ]


def broken_cases() -> list[dict[str, Any]]:
    def case(step: int, name: str, text: str, trust: str = LOGGED, now_ms: int | None = None) -> dict[str, Any]:
        return {"name": name, "bundle": text, "trust": trust, "step": step, "now_ms": now_ms}

    whole, opened = bundle(), bundle(opening=open_())
    note = logged(statement_bytes(receipt())).note
    root = note.split("\n")[2]
    proof = json.loads(whole)["proof"]
    first_line = proof.split("\n")[2]
    canonical = statement_bytes(receipt())
    said = json.loads(canonical)["predicate"]
    after = statement_with(at={"start_ms": START_MS, "end_ms": START_MS - 1})
    return [
        case(1, "empty", ""),
        case(1, "not an object", "[]"),
        case(1, "nested without end", "[" * 100_000),
        case(1, "something after it", whole + "{}"),
        case(1, "an unknown key", whole[:-1] + ',"more":"x"}'),
        case(1, "a repeated key", whole[:-1] + ',"proof":' + json.dumps(proof) + "}"),
        case(1, "a key repeated by an escape", opened.replace('"salt"', '"s\\u0061lt":"","salt"')),
        case(1, "no proof", '{"statement":"x"}'),
        case(1, "a number for a text", '{"proof":1,"statement":"x"}'),
        case(1, "a null opening", whole[:-1] + ',"opening":null}'),
        case(1, "a lone surrogate", '{"proof":"\\ud800","statement":"x"}'),
        case(1, "a salt in capitals", altered(opened, f'"{open_().salt.hex()}"', f'"{open_().salt.hex().upper()}"')),
        case(1, "a short salt", altered(opened, f'"{open_().salt.hex()}"', f'"{open_().salt.hex()[2:]}"')),
        case(1, "another proof version", altered(whole, "tlog-proof@v1", "tlog-proof@v2")),
        case(1, "an index with a leading zero", altered(whole, "index 2", "index 02")),
        case(1, "a proof line with stray bits", altered(whole, first_line, first_line[:-2] + "B=")),
        case(1, "a proof line without padding", altered(whole, first_line, first_line[:-1])),
        case(1, "no signature at all", whole[: whole.index(DASH) - 2] + whole[whole.index('","statement"') :]),
        case(1, "a tree size with a sign", altered(whole, "site-1\\n5\\n", "site-1\\n+5\\n")),
        case(1, "an extension line", altered(whole, root + "\\n", root + "\\nmore\\n")),
        case(1, "a control character in the note", altered(whole, "site-1\\n5", "site-1\\r\\n5")),
        case(2, "a log that nobody trusts", bundle(key=OTHER_LOG)),
        case(2, "an empty trust file", whole, "quorum none\n"),
        case(2, "a changed tree size", altered(whole, "site-1\\n5\\n", "site-1\\n6\\n")),
        case(2, "a changed signature", flip_signature(whole, LOG.verifier)),
        case(2, "another origin signed by a trusted key", bundle(origin="else.example/log")),
        case(
            2,
            "another name for the same key",
            bundle(key=SigningKey("else.example/log", bytes([1]) * 32), origin="else.example/log"),
        ),
        case(3, "one witness of two", bundle(cosign=by(2)), WITNESSED),
        case(3, "the same witness twice", bundle(cosign=lambda t: by(2)(t) + by(2, seconds=9)(t)), WITNESSED),
        case(3, "no witness", whole, WITNESSED),
        case(
            3,
            "a false cosignature beside two good ones",
            flip_signature(bundle(cosign=by(1, 2, 3)), WITNESSES[2].key),
            WITNESSED,
        ),
        case(4, "a changed statement", altered(whole, '\\"seq\\":1,', '\\"seq\\":2,')),
        case(4, "another index", altered(whole, "index 2", "index 1")),
        case(4, "an index beyond the tree", altered(whole, "index 2", "index 5")),
        case(4, "a proof line too few", altered(whole, first_line + "\\n", "")),
        case(4, "a proof line too many", altered(whole, first_line + "\\n", f"{first_line}\\n{first_line}\\n")),
        case(5, "in the year 10000", statement_with(at={"start_ms": LAST_MS + 1, "end_ms": LAST_MS + 1})),
        case(5, "before 1970", statement_with(at={"start_ms": -1, "end_ms": START_MS})),
        case(5, "more tokens than there are", statement_with(answer={**said["answer"], "tokens": 2**32 + 1})),
        case(5, "more millijoules than there are", statement_with(energy={**said["energy"], "millijoules": 2**47 + 1})),
        case(5, "a space after the statement", raw_statement(canonical + b" ")),
        case(5, "a number written as 1.0", raw_statement(canonical.replace(b'"seq":1', b'"seq":1.0'))),
        case(5, "a number written as -0", raw_statement(canonical.replace(b'"seq":1', b'"seq":-0'))),
        case(5, "a key twice", raw_statement(canonical.replace(b'"seq":1', b'"seq":1,"seq":1'))),
        case(5, "keys in another order", raw_statement(canonical[:-1].replace(b'{"_type"', b'{"a":1,"_type"') + b"}")),
        case(5, "an escape that is not needed", raw_statement(canonical.replace(b"site-1", b"\\u0073ite-1"))),
        case(5, "an unknown type", raw_statement(canonical.replace(b"urn:allod:answer:v1", b"urn:allod:answer:v2"))),
        case(5, "another subject", raw_statement(canonical.replace(b'"name":"answer"', b'"name":"request"'))),
        case(5, "an unknown field", statement_with(more=1)),
        case(
            5,
            "a lone surrogate in another type",
            raw_statement(canonical_json(HEARTBEAT).replace(b'"leaves":4', b'"leaves":"\\ud800"')),
        ),
        case(5, "an odd meter", statement_with(meter={"key": None, "engine_ms": 1, "cached_tokens": 0})),
        case(5, "an answer without an answer", statement_with(answer=None)),
        case(
            5, "a sequence number beyond 2^53", raw_statement(canonical.replace(b'"seq":1', b'"seq":9007199254740993'))
        ),
        case(5, "a truth value for a number", statement_with(seq=True)),
        case(5, "a control character in a text", statement_with(site={"id": "a\u0001b", "jurisdiction": "GB"})),
        case(5, "it ends before it starts", after),
        case(6, "only the salt, of another receipt", bundle(opening=open_(None, None, receipt_id="rcpt_0002"))),
        case(6, "the salt of another receipt", bundle(opening=open_(receipt_id="rcpt_0002"))),
        case(
            6,
            "one byte of the salt",
            altered(opened, open_().salt.hex()[:4], f"{(open_().salt[0] ^ 1):02x}" + open_().salt.hex()[2:4]),
        ),
        case(6, "one letter of the request", bundle(opening=open_(REQUEST.replace("agor", "ager")))),
        case(6, "one letter of the answer", bundle(opening=open_(answer=ANSWER.replace("Naw", "Nau")))),
        case(6, "an answer to a refusal", bundle(refusal(), opening=open_())),
        case(6, "request and answer exchanged", bundle(opening=open_(ANSWER, REQUEST))),
        case(7, "it ended after it was witnessed", bundle(cosign=by(1, 2, seconds=START_MS // 1000 - 120)), WITNESSED),
        case(7, "it ended in the future", whole, LOGGED, START_MS - 600_000),
        case(
            7,
            "it was witnessed in the future",
            bundle(cosign=by(1, 2, seconds=START_MS // 1000 + 9000)),
            WITNESSED,
            START_MS + 60_000,
        ),
    ]


def flip_signature(text: str, key: VerifierKey) -> str:
    """Change the last byte of this key's signature."""
    document = json.loads(text)
    lines = document["proof"].split("\n")
    at = next(number for number, line in enumerate(lines) if line.startswith(f"{DASH} {key.name} "))
    body = lines[at].rsplit(" ", 1)[1]
    lines[at] = lines[at].replace(body, ("A" if body[9] != "A" else "B").join((body[:9], body[10:])))
    document["proof"] = "\n".join(lines)
    return canonical_json(document).decode()


def trust_cases() -> list[dict[str, Any]]:
    log, one, two = LOG.verifier_key, WITNESSES[0].key, WITNESSES[1].key
    names = {name: f"witness {name} {key}\n" for name, key in (("a", one), ("b", two))}
    both = names["a"] + names["b"]
    bad_hash = log.replace(f"+{LOG.verifier.id.hex()}+", "+00000000+")
    good = {
        "no witness": f"log {log}\nquorum none\n",
        "comments, blanks, addresses, no last newline": f"# c\n\n \tlog\t{log} https://x.example/ \n  # d\nquorum none",
        "one witness": f"log {log}\n{names['a']}quorum a\n",
        "a group of groups": f"log {log}\n{both}group g any a\ngroup h all g b\nquorum h\n",
        "no log": "quorum none\n",
    }
    bad = {
        "empty": "",
        "two quorums": "quorum none\nquorum none\n",
        "an unknown word": "logs x\nquorum none\n",
        "a group before its members": f"group g any a\n{names['a']}quorum g\n",
        "a quorum before its witness": f"quorum a\n{names['a']}",
        "a member twice": f"{both}group g 1 a a\nquorum g\n",
        "a member of two groups": f"{both}group g 1 a\ngroup h 2 a b\nquorum h\n",
        "a threshold of none": f"{both}group g 0 a b\nquorum g\n",
        "a threshold too high": f"{both}group g 3 a b\nquorum g\n",
        "an empty group": f"{both}group g any\nquorum g\n",
        "a name twice": f"{names['a']}witness a {two}\nquorum a\n",
        "a key twice": f"{names['a']}witness b {one}\nquorum a\n",
        "a log twice": f"log {log}\nlog {log}\nquorum none\n",
        "a witness called none": f"witness none {one}\nquorum none\n",
        "a witness's key for a log": f"log {one}\nquorum none\n",
        "a log's key for a witness": f"witness a {log}\nquorum a\n",
        "a hash that is not the key's": f"log {bad_hash}\nquorum none\n",
        "a carriage return": f"log {log}\r\nquorum none\r\n",
    }
    return [{"name": name, "trust": text, "good": text in good.values()} for name, text in {**good, **bad}.items()]


def commitment_cases() -> dict[str, Any]:
    salt = salt_of(DAY_KEY, "rcpt_0001")
    return {
        "day_key": DAY_KEY.hex(),
        "tenant": TENANT,
        "pseudonym": pseudonym_of(DAY_KEY, TENANT),
        "receipt_id": "rcpt_0001",
        "salt": salt.hex(),
        "nonce": nonce_of(salt),
        "request": {"text": REQUEST, "commitment": commitment("request", salt, REQUEST.encode())},
        "answer": {"text": ANSWER, "commitment": commitment("answer", salt, ANSWER.encode())},
        "passage": {"text": "p", "commitment": commitment("passage", salt, b"p")},
    }


def tree_cases() -> list[dict[str, Any]]:
    leaves = [leaf_hash(b"entry %d" % number) for number in range(9)]
    read = reader(leaves)
    pairs = [(1, 1), (1, 9), (4, 7), (6, 9), (8, 9), (9, 9)]
    return [
        {
            "old": old,
            "new": new,
            "old_root": range_root(read, 0, old).hex(),
            "new_root": range_root(read, 0, new).hex(),
            "consistency": [node.hex() for node in consistency_proof(read, old, new)],
            "inclusion_of_last": [node.hex() for node in inclusion_proof(read, new - 1, new)],
        }
        for old, new in pairs
    ]


def documents() -> dict[str, Any]:
    """File name → contents."""
    return {
        "bundles.json": {"c2sp": C2SP, "good": good_cases(), "broken": broken_cases()},
        "trust.json": {"c2sp": C2SP, "cases": trust_cases()},
        "commitments.json": commitment_cases(),
        "trees.json": {"leaf": "entry <n>", "cases": tree_cases()},
    }


def main() -> None:
    for name, document in documents().items():
        (HERE / name).write_text(json.dumps(document, indent=1, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()

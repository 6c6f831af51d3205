"""`allod policy`: what is printed, what it ends with, and claims about a log of 10,000 requests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from allod.app.administration.claims import MAX_SHOWN
from allod.cli import main as command_line
from allod.cli.verbs import policy_explain
from allod.core.labels import Label
from allod.core.statements.receipt import (
    AnswerPart,
    EnginePart,
    ModelPart,
    PolicyPart,
    Receipt,
    RequestPart,
    SealPart,
    SitePart,
    statement_bytes,
)
from allod.core.times import span_ms
from allod.govern.policy.decision import default_text
from allod.prove.formats.signing_key import SigningKey, create_signing_key, load_signing_key
from allod.prove.tlog.log import Entry, open_log
from allod.prove.trust import trust_text
from allod.settings.files import load_nation

NATION = load_nation("gb")
HEX = "0123456789abcdef" * 4
DIGEST = "sha256:" + HEX
START_MS, _ = span_ms("2026-11-01")
SPACING_MS = 60_000  # one request a minute: 10,000 of them take just under a week
NUM_REQUESTS = 10_000
HOME_SITE, ABROAD = SitePart("home", "GB"), SitePart("abroad", "FR")
OUTSIDE = "no SECRET request reached a site outside GB"


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in a realm of the test's own, or in `home`."""

    def run(*words: str | Path, home: Path = tmp_path / "home") -> Ran:
        monkeypatch.setenv("ALLOD_HOME", str(home))
        return Ran(command_line.main([*map(str, words)]), *capsys.readouterr())

    return run


def part(label: Label, digest: str = DIGEST, decision: str = "permit") -> PolicyPart:
    return PolicyPart(digest, label.as_json(), decision, ("permit-use",))


OFFICIAL = part(NATION.label("OFFICIAL", purposes=sorted(NATION.purposes)[:1]))
SECRET = part(NATION.label("SECRET"))
FORBIDDEN = part(NATION.label("SECRET"), decision="forbid")
ANSWERED = Receipt(
    id="rcpt_0",
    seq=0,
    nonce=HEX[:32],
    start_ms=START_MS,
    end_ms=START_MS + 800,
    request=RequestPart(HEX, 12, {"seed": 1, "temperature_milli": 0}),
    answer=AnswerPart(HEX, 5, "stop"),
    model=ModelPart("smollm2", DIGEST, DIGEST),
    engine=EnginePart("llama.cpp", DIGEST, DIGEST, "exact"),
    policy=OFFICIAL,
    seal=SealPart("sealed", DIGEST),
    site=HOME_SITE,
    tenant=HEX[:32],
)
REFUSED: dict[str, Any] = {"answer": None, "model": None, "engine": None, "seal": None, "policy": FORBIDDEN}
Changes = dict[int, dict[str, Any]]


def receipts(changed: Changes) -> Iterator[Receipt]:
    """Every tenth is SECRET and at home, every hundredth a SECRET refusal, the rest OFFICIAL, some abroad."""
    for number in range(NUM_REQUESTS):
        at_ms = START_MS + number * SPACING_MS
        given: dict[str, Any] = {"site": ABROAD} if number % 7 == 3 else {}
        if number % 10 == 0:
            given = {"policy": SECRET}
        if number % 100 == 50:
            given = {**REFUSED, "site": ABROAD}
        given |= {"id": f"rcpt_{number}", "seq": number, "start_ms": at_ms, "end_ms": at_ms + 800}
        yield replace(ANSWERED, **{**given, **changed.get(number, {})})


def make_realm(home: Path, statements: Iterable[Receipt], *, batch: int = 16) -> Path:
    """A realm with these receipts in its log, as its gateway would have left it."""
    key = create_signing_key(home / "keys" / "receipts.key", "realm.example/receipts/home")
    (home / "trust.policy").write_text(trust_text(key.verifier))
    (home / "realm").write_text("realm.example\n")
    log = open_log(home / "logs" / "receipts", key)
    entries = [Entry(statement_bytes(receipt), receipt.id) for receipt in statements]
    for start in range(0, len(entries), batch):
        log.append(entries[start : start + batch])
    log.close()
    return home


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10,000 requests, and no SECRET one answered abroad."""
    return make_realm(tmp_path_factory.mktemp("clean"), receipts({}))


BREACHES: Changes = {
    4000: {"site": ABROAD},  # 3 November, 18:40
    8000: {"site": ABROAD},  # 6 November, 13:20
}


@pytest.fixture(scope="module")
def breached(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two SECRET requests answered abroad."""
    return make_realm(tmp_path_factory.mktemp("breached"), receipts(BREACHES))


# Claims


def test_a_claim_that_holds(run: Run, clean: Path) -> None:
    """Over every SECRET answer and none of the refusals; it says of which log, and what it does not say."""
    ran = run("policy", "prove", OUTSIDE, home=clean)
    assert ran.status == 0
    assert ran.out.startswith(f"holds: {OUTSIDE}\nlog realm.example/receipts/home: tree head of size 10000, root ")
    assert "900 of its 10000 entries are concerned, 0 break the claim" in ran.out
    assert "never logged" in ran.out


def test_planted_breaches_are_found_and_shown(run: Run, breached: Path, tmp_path: Path) -> None:
    """Each by its receipt, whose bundle verifies by itself."""
    ran = run("policy", "prove", OUTSIDE, "--json", "--receipts", tmp_path / "shown", home=breached)
    found = json.loads(ran.out)
    assert ran.status == 1
    assert (found["holds"], found["concerned"], found["breaking"]) == (False, 900, 2)
    assert found["receipts"] == [{"entry": number, "id": f"rcpt_{number}"} for number in BREACHES]
    shown = sorted((tmp_path / "shown").iterdir())
    assert [path.name for path in shown] == ["rcpt_4000.receipt.json", "rcpt_8000.receipt.json"]
    for path in shown:
        verified = run("verify", path, home=breached)
        assert verified.status == 0, verified
        assert verified.out.endswith("verified\n")
        assert json.loads(json.loads(path.read_text())["statement"])["predicate"]["site"]["jurisdiction"] == "FR"


@pytest.mark.parametrize(
    ("between", "num_breaking"),
    [
        ("2026-11-03 and 2026-11-03", 1),
        ("2026-11-03 and 2026-11-06", 2),
        ("2026-11-04 and 2026-11-05", 0),
        ("2026-11-03T18:40Z and 2026-11-03T18:40Z", 1),
        ("2026-11-03T18:40:00.801Z and 2026-11-06T13:19:59.999Z", 0),
    ],
)
def test_a_breach_outside_the_time_is_none(run: Run, breached: Path, between: str, num_breaking: int) -> None:
    """A claim is about its own time only, to the millisecond."""
    ran = run("policy", "prove", f"{OUTSIDE} between {between}", "--json", home=breached)
    assert json.loads(ran.out)["breaking"] == num_breaking
    assert ran.status == (1 if num_breaking else 0)


def test_the_other_claims_are_decided_as_well(run: Run, clean: Path) -> None:
    """Which policy decided, unsealed answers, answers without a purpose: counted as they were planted."""
    every = f"every SECRET request was decided by policy {DIGEST}"
    counts = {
        every: (1000, 0),
        every.replace("0123", "3210"): (1000, 1000),
        "no request was answered unsealed": (9900, 0),
        "no OFFICIAL request was answered without a purpose": (9000, 0),
        "no request was answered without a purpose": (9900, 900),
        "no OFFICIAL request reached a site outside GB": (
            9000,
            sum(number % 7 == 3 and number % 10 != 0 for number in range(NUM_REQUESTS)),
        ),
    }
    for claim, expected in counts.items():
        found = json.loads(run("policy", "prove", claim, "--json", home=clean).out)
        assert (found["concerned"], found["breaking"]) == expected, claim


def test_more_breaches_than_can_be_shown_are_counted(run: Run, clean: Path, tmp_path: Path) -> None:
    """The first thousand by name and bundle, all of them by number."""
    claim = "no OFFICIAL request reached a site outside GB"
    found = json.loads(run("policy", "prove", claim, "--json", "--receipts", tmp_path / "shown", home=clean).out)
    assert found["breaking"] > len(found["receipts"]) == len(list((tmp_path / "shown").iterdir())) == MAX_SHOWN
    told = run("policy", "prove", claim, home=clean).out
    assert f"and {found['breaking'] - 20} more" in told


def test_ten_thousand_requests_take_less_than_two_seconds(run: Run, clean: Path) -> None:
    """Of this process's own time, whatever else the machine does."""
    begun = time.process_time()
    assert run("policy", "prove", OUTSIDE, home=clean).status == 0
    assert time.process_time() - begun < 2


def test_a_log_that_does_not_verify_decides_nothing(run: Run, tmp_path: Path) -> None:
    """A breach whose entry was changed, or cut off, leaves no claim that holds."""
    home = make_realm(tmp_path / "home", [replace(ANSWERED, policy=SECRET, site=ABROAD, id=f"r{n}") for n in range(40)])
    segment = home / "logs" / "receipts" / "segment"
    whole = segment.read_bytes()
    assert run("policy", "prove", OUTSIDE).status == 1
    for tampered in (whole.replace(b'"FR"', b'"GB"'), whole[: len(whole) // 2], whole[:-1]):
        segment.write_bytes(tampered)
        ran = run("policy", "prove", OUTSIDE, "--json")
        assert (ran.status, json.loads(ran.out)["error"]["code"]) == (1, "not_verified")
        assert "the log is damaged" in ran.err


def test_another_realms_key_decides_nothing(run: Run, tmp_path: Path) -> None:
    """A log that was signed by another key of the same name is not this realm's log."""
    home = make_realm(tmp_path / "home", [ANSWERED])
    key = load_signing_key(home / "keys" / "receipts.key")
    (home / "keys" / "receipts.key").write_text(SigningKey(key.name, bytes(32)).private_text())
    ran = run("policy", "prove", OUTSIDE)
    assert (ran.status, ran.out) == (1, "")
    assert "not signed by this log's key" in ran.err


@pytest.mark.parametrize("entry", [b"{}", b'{"predicateType":"urn:allod:answer:v2","predicate":{}}', b'"x"'], ids=str)
def test_an_entry_that_nobody_can_judge_decides_nothing(run: Run, tmp_path: Path, entry: bytes) -> None:
    """It might be the one that breaks the claim."""
    home = make_realm(tmp_path / "home", [ANSWERED])
    log = open_log(home / "logs" / "receipts", load_signing_key(home / "keys" / "receipts.key"))
    log.append([Entry(entry, "x")])
    log.close()
    ran = run("policy", "prove", OUTSIDE, "--json")
    judged = json.loads(ran.out)
    assert (ran.status, judged["holds"], judged["unreadable_entries"]) == (1, False, [1])
    assert run("policy", "prove", OUTSIDE).out.startswith("NOT decided")


def test_a_repeated_key_cannot_hide_a_place(run: Run, tmp_path: Path) -> None:
    """Two readers may take it for two things, so it is judged to be neither."""
    home = make_realm(tmp_path / "home", [ANSWERED])
    log = open_log(home / "logs" / "receipts", load_signing_key(home / "keys" / "receipts.key"))
    statement = statement_bytes(replace(ANSWERED, policy=SECRET, site=ABROAD))
    site = b'"site":{"id":"abroad","jurisdiction":"FR"}'
    log.append([Entry(statement.replace(site, site + b"," + site.replace(b"FR", b"GB")), "x")])
    log.close()
    ran = run("policy", "prove", OUTSIDE)
    assert ran.status == 1
    assert "cannot be judged, being no valid statements: 1" in ran.out


def test_a_claim_that_cannot_be_read_shows_the_grammar(run: Run, clean: Path) -> None:
    """A misspelt word is never a claim about nothing, which would hold."""
    for claim in ("no SECRT request reached a site outside GB", "nothing bad happened", f"{OUTSIDE} since Monday"):
        ran = run("policy", "prove", claim, home=clean)
        assert (ran.status, ran.out) == (2, "")
        assert "hint: " in ran.err
    assert "reached a site outside PLACE" in ran.err


# Policies


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    file = tmp_path / "ours.cedar"
    file.write_text(default_text().replace("above-clearance", "above-the-clearance"))
    return file


def test_a_policy_from_its_check_to_its_history(run: Run, policy_file: Path) -> None:
    """Checked, set, shown, listed: the same digest throughout, and the text byte for byte."""
    checked = run("policy", "check", policy_file, "--json")
    assert (checked.status, json.loads(checked.out)["is_sound"]) == (0, True)
    digest = json.loads(checked.out)["digest"]
    ran = run("policy", "set", policy_file, "--note", "after the review")
    assert ran.status == 0
    assert ran.out.startswith("in force: version 1, entry 0, since ")
    for which in ([], ["1"], [digest], [digest.removeprefix("sha256:")]):
        assert run("policy", "show", *which) == (0, policy_file.read_text(), "")
    (row,) = json.loads(run("policy", "history", "--json").out)
    assert (row["version"], row["entry"], row["digest"], row["note"]) == (1, 0, digest, "after the review")
    assert row["who"].startswith("cli:")
    assert digest in run("policy", "history").out


def test_what_was_in_force_at_a_time(run: Run, policy_file: Path) -> None:
    """A moment before the first policy: none, and the exit status says so."""
    run("policy", "set", policy_file)
    (row,) = json.loads(run("policy", "history", "--json").out)
    assert json.loads(run("policy", "history", "--at", row["at"], "--json").out) == [row]
    assert json.loads(run("policy", "history", "--at", row["at"][:10], "--json").out) == [row]
    assert run("policy", "history", "--at", "2020-01-01", "--json") == (1, "[]\n", "")
    assert run("policy", "history", "--at", "yesterday").status == 2


def test_its_bundle_verifies_with_the_logs_key(run: Run, policy_file: Path, tmp_path: Path) -> None:
    """An outsider needs the artefacts log's key in the trust file, and nothing else of the realm."""
    run("policy", "set", policy_file)
    home = tmp_path / "home"
    (bundle,) = (home / "policies").glob("*.json")
    trust = tmp_path / "trust.policy"
    trust.write_text(trust_text(load_signing_key(home / "keys" / "artefacts.key").verifier))
    ran = run("verify", bundle, "--trust", trust)
    assert ran.status == 0
    assert "urn:allod:policy:v1" in ran.out


def test_a_policy_with_errors_is_refused(run: Run, tmp_path: Path) -> None:
    """The check says no, setting it says no, `--even-so` says no, and nothing is in force."""
    file = tmp_path / "all.cedar"
    file.write_text('@id("all")\n@reason("Anything goes.")\npermit (principal, action, resource);\n')
    assert run("policy", "check", file).status == 1
    for words in ([], ["--even-so"]):
        ran = run("policy", "set", file, *words)
        assert (ran.status, ran.out) == (1, "")
        assert "the policy is not set: error: " in ran.err
    assert run("policy", "history").status == 2


def test_a_text_that_is_no_policy_is_an_error_of_its_check(run: Run, tmp_path: Path) -> None:
    """The answer of `check` is no; for `set` it is wrong input."""
    file = tmp_path / "typo.cedar"
    file.write_text("permitt (principal, action, resource);")
    ran = run("policy", "check", file, "--json")
    assert (ran.status, json.loads(ran.out)["is_sound"]) == (1, False)
    assert run("policy", "set", file).status == 2
    assert run("policy", "check", tmp_path / "absent.cedar").status == 2


def test_a_request_is_explained(run: Run, policy_file: Path) -> None:
    """The decision is the exit status; the rule is shown as it is written, and what would change it."""
    asked = ["policy", "explain", "--file", policy_file, "--model", "smollm2-135m"]
    assert run(*asked).status == 0
    ran = run(*asked, "--tier", "SECRET", "--markings", "PERSONAL DATA")
    assert ran.status == 1
    assert '@id("above-accreditation")' in ran.out
    assert "It would be permitted with" in ran.out
    found = json.loads(run(*asked, "--tier", "SECRET", "--clearance", "OFFICIAL", "--json").out)
    assert [rule["name"] for rule in found["rules"]] == ["above-accreditation", "above-the-clearance"]
    assert run(*asked, "--tier", "SECRT").status == 2


def test_what_is_explained_is_what_the_tenant_may(run: Run, policy_file: Path) -> None:
    """Its own label, its scope and its key's: what the gateway would refuse is not called permitted."""
    asked = ["policy", "explain", "--file", policy_file, "--model", "smollm2-135m"]
    run("tenant", "add", "Press", "--tier", "SECRET", "--models", "smollm2-135m")
    ran = run(*asked, "--tenant", "Press")
    assert (ran.status, "SECRET" in ran.out.splitlines()[0]) == (1, True)
    run("tenant", "add", "Plain")
    key = json.loads(run("key", "add", "Plain", "--models", "another", "--json").out)["id"]
    assert run(*asked, "--tenant", "Plain").status == 0
    told = json.loads(run(*asked, "--tenant", "Plain", "--key", key, "--json").out)
    assert (told["decision"], "scoped to another" in told["asked"]) == ("forbid", True)
    assert json.loads(run(*asked, "--json").out)["asked"].split("; ")[1].startswith("key key_local_")


def test_nothing_is_explained_of_who_is_not_there(run: Run, policy_file: Path) -> None:
    """A tenant, a key, a key of somebody else's, a model; one that is archived or revoked opens nothing."""
    asked = ["policy", "explain", "--file", policy_file, "--model", "smollm2-135m"]
    run("tenant", "add", "Press")
    key = json.loads(run("key", "add", "Press", "--json").out)["id"]
    for words, said in {
        ("--tenant", "Nobody"): "there is no tenant 'Nobody'",
        ("--key", "key_none"): "allod key list",
        ("--key", key): "no such key",
        ("--model", "gpt-9"): "gpt-9",
    }.items():
        ran = run(*asked, *words)
        assert (ran.status, ran.out) == (2, "")
        assert said in ran.err
    run("key", "revoke", key)
    assert "ended" in run(*asked, "--tenant", "Press", "--key", key).err
    press = json.loads(run("tenant", "archive", "Press", "--json").out)["id"]
    assert "archived" in run(*asked, "--tenant", press).err


def test_the_model_asked_about_is_the_one_that_is_served(run: Run, policy_file: Path, tmp_path: Path) -> None:
    """The settings' name; for `auto` what this machine was measured to serve, and no model that is called so."""
    asked = ["policy", "explain", "--file", policy_file]
    ran = run(*asked)
    assert (ran.status, "--model" in ran.err) == (2, True)
    (tmp_path / "home" / "pace.json").write_text('{"prefill_s": 9, "decode_s": 9}')
    assert "chat with smollm2-135m" in run(*asked).out
    (tmp_path / "home" / "allod.toml").write_text('[model]\nname = "echo"\n')
    assert "chat with echo" in run(*asked).out
    (tmp_path / "home" / "allod.toml").write_text('[model]\nname = "/models/own.gguf"\n')
    assert "chat with own:" in run(*asked).out


@pytest.mark.parametrize(
    ("started_with", "name"), [("/models/own.gguf", "own"), ("qwen2.5-coder-0.5b", None), ("echo", None)]
)
def test_a_running_gateways_model_is_asked_about(
    run: Run, policy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started_with: str, name: str | None
) -> None:
    """What it was started with, which no setting names; and what is named beside it."""
    monkeypatch.setattr(policy_explain, "model_of_running", lambda home: started_with)
    asked = ["policy", "explain", "--file", policy_file]
    assert f"chat with {name or started_with}:" in run(*asked).out
    assert "chat with smollm2-135m:" in run(*asked, "--model", "smollm2-135m").out
    assert "chat with another:" in run(*asked, "--model", tmp_path / "another.gguf").out


def test_another_model_may_be_the_way(run: Run, tmp_path: Path) -> None:
    """The realm's other models are tried: one that the rules permit is named."""
    file = tmp_path / "some.cedar"
    file.write_text(
        '@id("use")\n@reason("The small one is for everybody.")\n'
        'permit (principal, action, resource == Model::"smollm2-135m");\n'
    )
    told = json.loads(run("policy", "explain", "--file", file, "--model", "qwen2.5-coder-0.5b", "--json").out)
    assert ["another model, smollm2-135m"] in told["changes"]


def test_a_seal_that_nobody_looked_at_is_called_assumed(run: Run, policy_file: Path) -> None:
    """In words and in JSON; what `--seal` says is not assumed."""
    asked = ["policy", "explain", "--file", policy_file, "--model", "smollm2-135m"]
    assert "seal sealed (assumed" in run(*asked).out
    assert json.loads(run(*asked, "--json").out)["seal_assumed"] is True
    ran = run(*asked, "--seal", "none")
    assert ("assumed" in ran.out, "seal none" in ran.out) == (False, True)
    assert json.loads(run(*asked, "--seal", "none", "--json").out)["seal_assumed"] is False


def test_a_check_says_what_set_will_want(run: Run, tmp_path: Path) -> None:
    """What is sound but warned of is not brought into force without a word: the check says so."""
    file = tmp_path / "warned.cedar"
    file.write_text(default_text().partition('@id("needs-a-sealed-engine")')[0])
    ran = run("policy", "check", file)
    assert (ran.status, ran.out.splitlines()[-1]) == (0, "sound, but `policy set` needs --even-so")
    assert run("policy", "set", file).status == 1
    assert run("policy", "set", file, "--even-so").status == 0


def test_without_a_policy_nothing_is_explained(run: Run) -> None:
    """A realm that has none is unavailable, not permissive."""
    ran = run("policy", "explain")
    assert (ran.status, ran.out) == (3, "")
    assert run("policy", "show").status == 2

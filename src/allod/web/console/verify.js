// Verification of a receipt's bundle in the browser: the seven steps of spec/receipt.md, with WebCrypto alone.
//
//   verify(bundleText, trustText, nowMs?) -> {verified, steps: [{number, name, ok, detail}]}
//
// The steps stop at the first that fails. A trust file that cannot be read, or a browser without Ed25519, throws.

export const STEPS = ["bundle", "log", "witnesses", "inclusion", "statement", "opening", "times"];
const SKEW_MS = 60_000;
const MAX_BUNDLE_BYTES = 4 * 1024 * 1024;
const MAX_STATEMENT_BYTES = 65_535;
const ED25519 = 1, ED25519_COSIGNATURE = 4, MLDSA44_COSIGNATURE = 6;
const KEY_BYTES = { [ED25519]: 32, [ED25519_COSIGNATURE]: 32, [MLDSA44_COSIGNATURE]: 1312 };

class Failed extends Error {}
const refuse = (message) => { throw new Failed(message); };
const check = (condition, message) => condition || refuse(message);

// Bytes

const utf8 = (text) => new TextEncoder().encode(text);
const join = (...parts) => {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
};
const same = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);
const toHex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const fromHex = (text) => Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));

function fromBase64(text, what) {
  check(/^[A-Za-z0-9+/]*={0,2}$/.test(text) && text.length % 4 === 0, `${what} is not base64`);
  const binary = atob(text);
  check(btoa(binary) === text, `${what} is not canonical base64`); // atob ignores the unused bits of the last character
  return Uint8Array.from(binary, (char) => char.charCodeAt(0));
}

function fromDecimal(text, what) {
  check(/^(0|[1-9][0-9]{0,18})$/.test(text) && BigInt(text) < 1n << 63n, `${what} is not a decimal number`);
  return BigInt(text);
}

async function hmac(key, ...parts) {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const imported = await crypto.subtle.importKey("raw", key, algorithm, false, ["sign"]);
  return new Uint8Array(await crypto.subtle.sign("HMAC", imported, join(...parts)));
}

async function isEd25519(publicKey, signature, message) {
  let key;
  try {
    key = await crypto.subtle.importKey("raw", publicKey, { name: "Ed25519" }, false, ["verify"]);
  } catch (error) {
    if (error.name === "NotSupportedError") {
      throw new Error("this browser cannot check Ed25519 signatures: use a newer one, or `allod verify`", { cause: error });
    }
    return false;
  }
  return crypto.subtle.verify({ name: "Ed25519" }, key, signature, message);
}

// Step 1: the bundle. It holds objects and strings only, so eight kinds of token and no recursion read it, and a
// repeated key, which JSON.parse would pass over, is seen.

const TOKEN = /[ \t\r\n]*([{}:,]|"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")/y;

function* tokens(text) {
  TOKEN.lastIndex = 0;
  let end = 0;
  for (let found; (found = TOKEN.exec(text)) !== null; end = TOKEN.lastIndex) yield found[1];
  check(/^[ \t\r\n]*$/.test(text.slice(end)), "not a bundle: not JSON of objects and strings");
}

function readObject(next, depth) {
  const object = new Map();
  let token = next();
  if (token === "}") return object;
  for (;;) {
    const key = readText(token);
    check(!object.has(key), "not a bundle: a key is repeated");
    check(next() === ":", "not a bundle: a colon is expected");
    token = next();
    object.set(key, token === "{" && depth > 1 ? readObject(next, depth - 1) : readText(token));
    token = next();
    if (token === "}") return object;
    check(token === ",", "not a bundle: a comma is expected");
    token = next();
  }
}

function readText(token) {
  check(token?.startsWith('"'), "not a bundle: a text is expected");
  const text = JSON.parse(token);
  check(!/\p{Surrogate}/u.test(text), "not a bundle: a text is not Unicode");
  return text;
}

function checkKeys(object, required, optional) {
  const known = [...required, ...optional];
  const right = object instanceof Map && required.every((key) => object.has(key)) && [...object.keys()].every((key) => known.includes(key));
  check(right, `not a bundle: ${required.join(", ")} and nothing unknown is expected`);
}

function parseBundle(text) {
  const size = utf8(text).length;
  check(size <= MAX_BUNDLE_BYTES, "not a bundle: larger than 4 MiB");
  const stream = tokens(text);
  const next = () => stream.next().value;
  check(next() === "{", "not a bundle: an object is expected");
  const bundle = readObject(next, 2);
  check(next() === undefined, "not a bundle: something follows it");
  checkKeys(bundle, ["statement", "proof"], ["opening"]);
  const [statement, proof, opening] = ["statement", "proof", "opening"].map((key) => bundle.get(key));
  check(typeof statement === "string" && typeof proof === "string", "not a bundle: a text is expected");
  check(utf8(statement).length <= MAX_STATEMENT_BYTES, "not a bundle: the statement is too long");
  if (bundle.has("opening")) {
    checkKeys(opening, ["salt"], ["request", "answer"]);
    check(/^[0-9a-f]{64}$/.test(opening.get("salt")), "not a bundle: the salt is not 32 bytes of hexadecimal");
  }
  return { size, statement, opening, ...parseProof(proof) };
}

function parseProof(text) {
  const split = text.indexOf("\n\n");
  const lines = text.slice(0, Math.max(split, 0)).split("\n");
  check(split >= 0 && lines.length >= 2 && lines.length <= 65 && lines[0] === "c2sp.org/tlog-proof@v1", "not a tlog-proof");
  check(lines[1].startsWith("index "), "a tlog-proof has its index on the second line");
  const path = lines.slice(2).map((line) => fromBase64(line, "a proof line"));
  check(path.every((node) => node.length === 32), "a proof line is not 32 bytes");
  const note = parseNote(text.slice(split + 2));
  return { index: fromDecimal(lines[1].slice(6), "the index"), path, note, head: parseHead(note.text) };
}

const isKeyName = (name) => /^[^+\u0000-\u0020\u007f\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+$/u.test(name);

function parseNote(note) {
  check(note.length <= 256 * 1024 && !/[\u0000-\u0009\u000b-\u001f]/.test(note), "the note is too long or has control characters");
  const split = note.lastIndexOf("\n\n");
  check(split >= 0 && note.endsWith("\n") && split + 2 < note.length, "the note is not signed");
  const lines = note.slice(split + 2, -1).split("\n");
  check(lines.length <= 64, "the note has too many signatures");
  const signatures = lines.map((line) => {
    const fields = line.split(" ");
    check(fields.length === 3 && fields[0] === "\u2014" && isKeyName(fields[1]), "a signature line is malformed");
    const data = fromBase64(fields[2], "a signature");
    check(data.length >= 5, "a signature is too short");
    return { name: fields[1], id: toHex(data.slice(0, 4)), data: data.slice(4) };
  });
  return { text: note.slice(0, split + 1), signatures };
}

function parseHead(text) {
  const lines = text.split("\n");
  check(lines.length === 4 && lines[3] === "" && lines[0] !== "", "not a tree head: origin, size and root are its only lines");
  const root = fromBase64(lines[2], "the root");
  check(root.length === 32, "the root is not 32 bytes");
  return { origin: lines[0], size: fromDecimal(lines[1], "the tree size"), root };
}

// Trust: C2SP tlog-policy

async function parseKey(text, kinds) {
  const [, name, id, material] = /^([^+]*)\+([0-9a-f]{8})\+(.*)$/s.exec(text) ?? refuse("a verifier key is name+hash+base64");
  check(isKeyName(name), "a verifier key is name+hash+base64");
  const bytes = fromBase64(material, "the verifier key");
  check(kinds.includes(bytes[0]) && KEY_BYTES[bytes[0]] === bytes.length - 1, `${name}: a key of the wrong kind`);
  const hash = await sha256(join(utf8(`${name}\n`), bytes));
  check(toHex(hash.slice(0, 4)) === id, `${name}: the hash is not this key's`);
  return { name, id, kind: bytes[0], publicKey: bytes.slice(1), hex: toHex(bytes.slice(1)) };
}

const READERS = {
  async log(trust, words) {
    check(words.length === 1 || words.length === 2, "a verifier key, then at most an address");
    const key = await parseKey(words[0], [ED25519]);
    check(!trust.logs.some((other) => other.hex === key.hex), "this log's key is there already");
    trust.logs.push(key);
  },
  async witness(trust, words) {
    const name = newName(trust, words);
    check(words.length === 2 || words.length === 3, "a verifier key, then at most an address");
    const key = await parseKey(words[1], [ED25519_COSIGNATURE, MLDSA44_COSIGNATURE]);
    check(![...trust.witnesses.values()].some((other) => other.hex === key.hex), "this witness's key is there already");
    trust.witnesses.set(name, key);
  },
  async group(trust, words) {
    const name = newName(trust, words);
    const members = words.slice(2);
    check(members.length > 0, "a group has a threshold and at least one member");
    for (const member of members) {
      check(isKnown(trust, member) && !trust.members.has(member), `${member} is not known above, or is a member already`);
      trust.members.add(member);
    }
    const needed = { all: String(members.length), any: "1" }[words[1]] ?? words[1];
    check(/^[1-9][0-9]{0,3}$/.test(needed) && Number(needed) <= members.length, "a threshold is `all`, `any` or a number up to that of the members");
    trust.groups.set(name, { needed: Number(needed), members });
  },
  async quorum(trust, words) {
    check(words.length === 1 && (words[0] === "none" || isKnown(trust, words[0])), "a quorum is one name known above, or `none`");
    trust.quorums.push(words[0]);
  },
};

const isKnown = (trust, name) => trust.witnesses.has(name) || trust.groups.has(name);

function newName(trust, words) {
  check(words.length > 0 && words[0] !== "none" && !isKnown(trust, words[0]), "a name of its own is needed");
  return words[0];
}

export async function parseTrust(text) {
  const trust = { logs: [], witnesses: new Map(), groups: new Map(), members: new Set(), quorums: [] };
  if (text.length > 1024 * 1024 || /[\u0000-\u0008\u000b-\u001f\u007f]/.test(text)) throw new Error("the trust file is too long or has control characters");
  for (const [at, line] of text.split("\n").entries()) {
    const words = line.match(/[^ \t]+/g) ?? [];
    if (words.length === 0 || words[0].startsWith("#")) continue;
    try {
      check(Object.hasOwn(READERS, words[0]), `unknown word ${words[0]}`);
      await READERS[words[0]](trust, words.slice(1));
    } catch (error) {
      throw new Error(`trust file, line ${at + 1}: ${error.message}`, { cause: error });
    }
  }
  if (trust.quorums.length !== 1) throw new Error("a trust file has exactly one quorum line");
  if (Math.max(trust.logs.length, trust.witnesses.size, trust.groups.size) > 256) throw new Error("the trust file names too many");
  return { ...trust, quorum: trust.quorums[0] === "none" ? null : trust.quorums[0] };
}

function isMetBy(trust, cosigned) {
  if (trust.quorum === null) return true;
  const met = new Map([...trust.witnesses.keys()].map((name) => [name, cosigned(name)]));
  for (const [name, group] of trust.groups) met.set(name, group.members.filter((member) => met.get(member)).length >= group.needed);
  return met.get(trust.quorum);
}

// Steps 2 and 3: who signed the tree head

const linesBy = (note, key) => note.signatures.filter((line) => line.name === key.name && line.id === key.id);

async function signingLog({ note, head }, trust) {
  const claimed = trust.logs.filter((key) => key.name === head.origin && linesBy(note, key).length > 0);
  check(claimed.length > 0, `no trusted log signed this tree head of ${head.origin}`);
  for (const key of claimed) {
    for (const line of linesBy(note, key)) {
      check(await isEd25519(key.publicKey, line.data, utf8(note.text)), `the signature by ${head.origin} is false`);
    }
  }
  return claimed[0];
}

async function cosignatures({ note }, trust) {
  const found = new Map(); // name → seconds since 1970
  for (const [name, key] of trust.witnesses) {
    if (key.kind !== ED25519_COSIGNATURE) continue; // no browser checks ML-DSA-44 yet: such a witness does not count here
    for (const line of linesBy(note, key)) {
      check(line.data.length === 72, `the cosignature by ${key.name} is false`);
      const stamp = new DataView(line.data.buffer, line.data.byteOffset).getBigUint64(0);
      const message = utf8(`cosignature/v1\ntime ${stamp}\n${note.text}`);
      const good = stamp < 1n << 63n && await isEd25519(key.publicKey, line.data.slice(8), message);
      check(good, `the cosignature by ${key.name} is false`);
      if (!found.has(name) || stamp < found.get(name)) found.set(name, stamp);
    }
  }
  return found;
}

function checkQuorum(times, trust) {
  const counted = `cosigned by ${times.size} of ${trust.witnesses.size} known witnesses`;
  check(isMetBy(trust, (name) => times.has(name)), `${counted}: below the quorum`);
  if (trust.quorum === null) return "logged, not witnessed: the trust file requires no witness";
  return `${counted}: ${[...times.keys()].join(", ")}`;
}

// Step 4: RFC 9162 section 2.1.3.2

async function checkInclusion({ statement, index, path, head }) {
  const wrong = "the statement is not the entry that the proof speaks of";
  check(index < head.size, wrong);
  let node = await sha256(join(Uint8Array.of(0), utf8(statement)));
  let last = head.size - 1n;
  for (const sibling of path) {
    check(last !== 0n, wrong);
    if (index & 1n || index === last) {
      node = await sha256(join(Uint8Array.of(1), sibling, node));
      while (!(index & 1n) && index !== 0n) { index >>= 1n; last >>= 1n; }
    } else {
      node = await sha256(join(Uint8Array.of(1), node, sibling));
    }
    index >>= 1n;
    last >>= 1n;
  }
  check(last === 0n && same(node, head.root), wrong);
}

// Step 5: the statement

const matches = (pattern) => (value) => typeof value === "string" && pattern.test(value);
const nullOr = (shape) => (value, where) => value === null || checkShape(shape, value, where) !== false;
const ifThere = (shape) => Object.assign((value, where) => checkShape(shape, value, where) !== false, { mayLack: true });
const listOf = (test, most) => (value) => Array.isArray(value) && value.length <= most && value.every(test);
const isUpTo = (most) => (value) => Number.isSafeInteger(value) && value >= 0 && value <= most;
const isCount = isUpTo(Number.MAX_SAFE_INTEGER);
const isTime = isUpTo(253402300799999); // the end of the year 9999
const isTokens = isUpTo(2 ** 32);
const isAmount = isUpTo(2 ** 47);
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isText = matches(/^[^\u0000-\u001f\u007f\p{Surrogate}]{1,256}$/u);
const isId = matches(/^[A-Za-z0-9_-]{1,64}$/);
const isHex128 = matches(/^[0-9a-f]{32}$/);
const isHex256 = matches(/^[0-9a-f]{64}$/);
const isDigest = matches(/^sha256:[0-9a-f]{64}$/);
const isSetting = (value) => value === null || typeof value === "boolean" || Number.isSafeInteger(value) || isText(value);
const isParams = (value) => isObject(value) && Object.keys(value).length <= 32
  && Object.entries(value).every(([key, item]) => /^[a-z][a-z0-9_]{0,63}$/.test(key) && isSetting(item));
const isSubject = (value) => isObject(value) && hasKeys(value, ["name", "digest"]) && isText(value.name)
  && isObject(value.digest) && hasKeys(value.digest, ["sha256"]) && isHex256(value.digest.sha256);
const isSubjects = (value) => Array.isArray(value) && value.length >= 1 && value.length <= 64 && value.every(isSubject);
const isTexts = listOf(isText, 64);

const AT = { start_ms: isTime, end_ms: isTime };
const LABEL = { tier: isText, markings: isTexts, jurisdictions: nullOr(isTexts), purposes: nullOr(isTexts) };
const MODEL = { name: isText, digest: isDigest, template: nullOr(isDigest), adapters: listOf(isDigest, 16) };
const ENGINE = { name: isText, build: isDigest, config: isDigest, replay: matches(/^(exact|batch-invariant|none)$/) };
const policy = (decision) => ({ digest: isDigest, label: LABEL, rules: isTexts, decision: (value) => value === decision });
const METER = { key: nullOr(isHex128), engine_ms: isAmount, cached_tokens: isTokens, micros: isAmount };
const BOTH = {
  id: isId, seq: isCount, nonce: isHex128, at: AT,
  request: { commitment: isHex256, tokens: nullOr(isTokens), params: isParams },
  sources: listOf(isHex256, 256), seal: nullOr({ kind: isText, proof: nullOr(isDigest) }),
  site: { id: isText, jurisdiction: isText }, tenant: isHex128, meter: ifThere(METER),
  energy: { millijoules: nullOr(isAmount), label: matches(/^(METERED|MODELLED|UNAVAILABLE)$/), method: nullOr(isText) },
};
const PREDICATES = {
  "urn:allod:answer:v1": {
    ...BOTH, answer: { commitment: isHex256, tokens: nullOr(isTokens), finish: isText },
    model: MODEL, engine: ENGINE, policy: policy("permit"),
  },
  "urn:allod:refusal:v1": {
    ...BOTH, answer: (value) => value === null, model: nullOr(MODEL), engine: nullOr(ENGINE), policy: policy("forbid"),
  },
};
const OTHER_TYPES = ["heartbeat", "artefact", "training", "policy", "drill", "clock"]
  .map((name) => `urn:allod:${name}:v1`)
  .concat("urn:allod:training:v2");

function hasKeys(object, keys) {
  const own = Object.keys(object);
  return own.length === keys.length && keys.every((key) => Object.hasOwn(object, key));
}

function checkShape(shape, value, where) {
  if (typeof shape === "function") {
    check(shape(value, where), `${where} is not what it must be`);
    return;
  }
  const keys = Object.keys(shape).filter((key) => !shape[key].mayLack || (isObject(value) && Object.hasOwn(value, key)));
  check(isObject(value) && hasKeys(value, keys), `${where} must have exactly: ${keys.sort().join(", ")}`);
  for (const key of keys) checkShape(shape[key], value[key], `${where}.${key}`);
}

function canonical(value, depth = 16) {
  check(depth > 0, "nested too deeply");
  if (Array.isArray(value)) return `[${value.map((item) => canonical(item, depth - 1)).join(",")}]`;
  if (typeof value === "number") check(Number.isSafeInteger(value), "a number that is not a safe integer");
  if (typeof value === "string") check(!/\p{Surrogate}/u.test(value), "a text is not Unicode");
  if (!isObject(value)) return JSON.stringify(value);
  const keys = Object.keys(value).sort();
  check(keys.every((key) => /^[\u0000-\u007f]*$/.test(key)), "a key is not ASCII text");
  return `{${keys.map((key) => `${JSON.stringify(key)}:${canonical(value[key], depth - 1)}`).join(",")}}`;
}

function checkStatement(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    refuse(`not JSON: ${error.message}`);
  }
  check(canonical(value) === text, "not in canonical form");
  checkShape({ _type: isText, predicateType: isText, subject: isSubjects, predicate: isObject }, value, "it");
  const { predicateType: kind, predicate } = value;
  check(value._type === "https://in-toto.io/Statement/v1", `unknown type ${value._type}`);
  if (Object.hasOwn(PREDICATES, kind)) {
    checkShape(PREDICATES[kind], predicate, "predicate");
    const name = kind === "urn:allod:answer:v1" ? "answer" : "request";
    const expected = canonical([{ name, digest: { sha256: predicate[name].commitment } }]);
    check(canonical(value.subject) === expected, `its subject is not the ${name}'s commitment`);
  } else {
    check(OTHER_TYPES.includes(kind), `unknown type ${kind}`);
    checkShape({ id: isId, at: AT }, { id: predicate.id ?? null, at: predicate.at ?? null }, "predicate");
  }
  check(predicate.at.start_ms <= predicate.at.end_ms, "it ends before it starts");
  return { kind, predicate, canOpen: Object.hasOwn(PREDICATES, kind) };
}

// Step 6: the opening

async function checkOpening(opening, { predicate, canOpen }) {
  if (opening === undefined) return "no opening given: commitments not checked";
  check(canOpen, "this type of statement has nothing to open");
  const salt = fromHex(opening.get("salt"));
  const nonce = (await hmac(salt, utf8("allod nonce v1"))).slice(0, 16);
  check(toHex(nonce) === predicate.nonce, "the salt is not this receipt's");
  const given = ["request", "answer"].filter((role) => opening.has(role));
  for (const role of given) {
    const made = await hmac(salt, utf8(`allod ${role} v1\0`), utf8(opening.get(role)));
    check(predicate[role] !== null && toHex(made) === predicate[role].commitment, `the ${role} is not the one that was committed to`);
  }
  return `salt checked; texts checked: ${given.join(", ") || "none given"}`;
}

// Step 7: the times

function quorumTimeMs(times, trust) {
  if (trust.quorum === null) return null;
  const stamps = [...new Set(times.values())].filter((stamp) => stamp > 0n).sort((a, b) => (a < b ? -1 : 1));
  const limit = stamps.find((stamp) => isMetBy(trust, (name) => times.get(name) > 0n && times.get(name) <= stamp));
  return limit === undefined ? null : Number(limit) * 1000;
}

function checkTimes({ predicate }, witnessedMs, nowMs) {
  for (const [limitMs, whose] of [[witnessedMs, "the witnesses cosigned"], [nowMs, "now"]]) {
    check(limitMs === null || predicate.at.end_ms <= limitMs + SKEW_MS, `it says to have ended after ${whose}`);
  }
  if (witnessedMs === null) return "no witnessed window: times are by the operator's clock alone";
  check(nowMs === null || witnessedMs <= nowMs + SKEW_MS, "the witnesses' time is in the future");
  return `ended before the witnessed time, ${witnessedMs} ms since 1970`;
}

// All seven

export async function verify(bundleText, trustText, nowMs = null) {
  const trust = await parseTrust(trustText);
  let bundle, times, statement;
  const work = [
    () => { bundle = parseBundle(bundleText); return `${bundle.size} bytes`; },
    async () => `tree head of size ${bundle.head.size} signed by ${(await signingLog(bundle, trust)).name}`,
    async () => checkQuorum((times = await cosignatures(bundle, trust)), trust),
    async () => { await checkInclusion(bundle); return `entry ${bundle.index} of ${bundle.head.size}`; },
    () => { statement = checkStatement(bundle.statement); return `${statement.kind} ${statement.predicate.id}`; },
    () => checkOpening(bundle.opening, statement),
    () => checkTimes(statement, quorumTimeMs(times, trust), nowMs),
  ];
  const steps = [];
  for (const [at, name] of STEPS.entries()) {
    try {
      steps.push({ number: at + 1, name, ok: true, detail: await work[at]() });
    } catch (error) {
      if (!(error instanceof Failed)) throw error;
      return { verified: false, steps: [...steps, { number: at + 1, name, ok: false, detail: error.message }] };
    }
  }
  return { verified: true, steps };
}

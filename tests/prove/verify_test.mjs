// The browser's verifier over the vectors of the specification; `node --test`, run by test_browser.py.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import { STEPS, parseTrust, verify } from "../../src/allod/web/console/verify.js";

const load = (name) => JSON.parse(readFileSync(new URL(`../../spec/vectors/${name}`, import.meta.url), "utf8"));
const { good, broken } = load("bundles.json");

for (const { name, bundle, trust, level, opened } of good) {
  test(`verifies: ${name}`, async () => {
    const { verified, steps } = await verify(bundle, trust);
    assert.deepEqual(steps.filter((step) => !step.ok), []);
    assert.equal(verified, true);
    assert.deepEqual(steps.map((step) => step.name), STEPS);
    assert.equal(steps[2].detail.startsWith("logged, not witnessed"), level === "logged");
    if (opened.length > 0) assert.ok(steps[5].detail.endsWith(opened.join(", ")), steps[5].detail);
  });
}

for (const { name, bundle, trust, step, now_ms } of broken) {
  test(`step ${step} refuses: ${name}`, async () => {
    const { verified, steps } = await verify(bundle, trust, now_ms);
    assert.equal(verified, false);
    assert.deepEqual([steps.at(-1).number, steps.at(-1).ok, steps.length], [step, false, step]);
  });
}

for (const { name, trust, good: isGood } of load("trust.json").cases) {
  test(`trust file: ${name}`, async () => {
    if (isGood) await parseTrust(trust);
    else await assert.rejects(parseTrust(trust));
  });
}

test("a browser without Ed25519 says so instead of guessing", async (t) => {
  const original = crypto.subtle.importKey;
  t.mock.method(crypto.subtle, "importKey", function (format, key, algorithm, ...rest) {
    if (algorithm.name === "Ed25519") throw new DOMException("unknown", "NotSupportedError");
    return original.call(this, format, key, algorithm, ...rest);
  });
  await assert.rejects(verify(good[0].bundle, good[0].trust), /cannot check Ed25519/);
});

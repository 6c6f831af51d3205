// The receipt below an answer: fetched, opened, verified here in the browser, shown, and handed over as a file.

import { STEPS, meaning, statementFacts, summaryOf } from "./claims.js";
import { announce, make, verdict } from "./dom.js";
import { verify } from "./verify.js";

/** The bytes that a receipt commits to as the answer: RFC 8785 of the text and no tool calls (spec/receipt.md). */
export const answerText = (content) => JSON.stringify({ content, tool_calls: [] });

/** The bundle's text with what the console knows in its opening; a text that is undefined stays out. */
export function openBundle(bundle, texts) {
  if (texts === null) return JSON.stringify(bundle);
  return JSON.stringify({ ...bundle, opening: { ...bundle.opening, ...texts } });
}

export class Receipt {
  #gateway;
  #texts;
  #usage = null;
  #bundle = null;
  #line = make("p", { class: "line" });
  #steps = make("div", { class: "steps" });
  #again = make("button", { type: "button", class: "quiet" }, "Verify");
  #save = make("button", { type: "button", class: "quiet", disabled: true }, "Download receipt");

  /**
   * `texts` is {request, answer}: the exact texts sent and received; no `answer` where it is not whole. null where the
   * reader has no business with them: the receipt then stays closed.
   */
  constructor(gateway, id, texts) {
    this.#gateway = gateway;
    this.id = id;
    this.#texts = texts;
    this.#again.addEventListener("click", async () => announce(await this.verify()));
    this.#save.addEventListener("click", () => this.#download());
    this.#show(verdict(null, "Not verified yet"));
    this.element = make(
      "div",
      { class: "receipt", role: "group", "aria-label": "Receipt" },
      this.#line,
      make("p", { class: "id" }, "Receipt ", make("code", {}, id)),
      this.#steps,
      make("div", { class: "row" }, this.#again, this.#save),
    );
  }

  /** Fetch and verify. Resolves to one sentence that says how it went; never rejects. */
  async verify(usage = this.#usage) {
    this.#usage = usage;
    this.#show(verdict(null, "Verifying…"));
    try {
      const [bundle, trust] = await Promise.all([this.#gateway.receipt(this.id), this.#gateway.trust()]);
      this.#bundle = openBundle(bundle, this.#texts);
      this.#save.disabled = false;
      return this.#report(await verify(this.#bundle, trust), trust);
    } catch (error) {
      this.#steps.replaceChildren(make("p", {}, "Without its receipt nothing about this answer is proved."));
      return this.#say(false, `Not verified: ${error.message}`);
    } finally {
      this.#again.textContent = "Verify again";
    }
  }

  #report({ verified, steps }, trust) {
    const isClosed = this.#texts === null;
    if (isClosed) steps = steps.map((step) => (step.name === "opening" ? { ...step, ok: null } : step));
    const failed = steps.find((step) => step.ok === false);
    const passed = steps.filter((step) => step.ok).length;
    const statement = verified ? JSON.parse(JSON.parse(this.#bundle).statement) : null;
    const isOther = verified && statement.predicate.id !== this.id;
    const said = isOther
      ? this.#say(false, "Not verified: the gateway sent another answer’s receipt")
      : verified
        ? this.#say(true, this.#praise(), summaryOf(statement, this.#usage))
        : this.#say(false, `Not verified: step ${failed?.number ?? 1}, ${failed?.name ?? STEPS[0][0]}`);
    const summary = make("summary", {}, `What was checked: ${passed} of ${STEPS.length} steps passed`);
    const list = make("ol", {}, ...STEPS.map((step, index) => stepItem(step, steps[index], isClosed)));
    const details = make("details", { open: !verified }, summary, list);
    if (verified && !isOther) {
      const isWitnessed = !/^[ \t]*quorum[ \t]+none[ \t]*$/m.test(trust);
      const hasText = this.#texts?.answer !== undefined;
      details.append(
        make("h3", {}, "What the receipt states"),
        statementFacts(statement),
        ...meaning(statement, { isWitnessed, hasText, isClosed }),
      );
    } else {
      details.append(make("p", {}, "Do not rely on this answer as evidence. Keep the receipt and tell the operator."));
    }
    this.#steps.replaceChildren(details);
    return said;
  }

  /** A text that is not a whole answer is not opened, so it must not be called verified. */
  #praise() {
    if (this.#texts === null) return "Receipt verified in this browser";
    return this.#texts.answer === undefined ? "Receipt verified, without the text above" : "Verified in this browser";
  }

  #say(ok, text, more = []) {
    this.#show(verdict(ok, text), ...more.map((word) => make("span", {}, word)));
    return `${text}.`;
  }

  #show(found, ...nodes) {
    const isBad = found.classList.contains("bad");
    this.#line.className = isBad ? "line notice bad" : "line";
    this.#line.replaceChildren(found, ...nodes);
  }

  #download() {
    const url = URL.createObjectURL(new Blob([this.#bundle], { type: "application/json" }));
    make("a", { href: url, download: `${this.id}.receipt.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

function stepItem([name, question], step, isClosed) {
  const isReached = step !== undefined && step.ok !== null;
  const isLeftOut = isClosed && name === "opening";
  const word = isLeftOut
    ? "left out: the texts stay closed"
    : !isReached
      ? "not reached"
      : step.ok
        ? "passed"
        : "failed";
  return make(
    "li",
    {},
    make("p", {}, `${question} `, make("code", {}, name), " ", verdict(isReached ? step.ok : null, word)),
    step?.detail && !isLeftOut ? make("p", { class: step.ok ? "hint" : "error" }, step.detail) : null,
  );
}

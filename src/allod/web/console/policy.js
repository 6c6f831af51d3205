// The page of the policy: its rules in words beside their text, since when it is in force, and a form that asks why.

import { byId, facts, make, verdict } from "./dom.js";
import { whoWords } from "./events.js";
import { ExplainForm } from "./explain.js";
import { ruleItem } from "./rule.js";
import { count, counted, time } from "./words.js";

export class PolicyPage {
  #gateway = null;

  /** `onDenied` is called when the gateway no longer takes the key. */
  constructor({ onDenied }) {
    this.onDenied = onDenied;
  }

  /** Read the policy and show it. */
  async open(gateway) {
    this.#gateway = gateway;
    byId("policy-part").replaceChildren(make("p", { class: "hint" }, "Reading…"));
    try {
      const [policy, tenants] = await Promise.all([gateway.policy(), gateway.tenants()]);
      if (this.#gateway !== gateway) return;
      const form = new ExplainForm(gateway, { words: policy.words, tenants });
      byId("policy-part").replaceChildren(inForce(policy), rules(policy), form.element, checkPart(), history(policy));
      await this.#check(gateway);
    } catch (error) {
      if (this.#gateway === gateway) this.#fail(error);
    }
  }

  close() {
    this.#gateway = null;
  }

  #fail(error) {
    if (error.status === 401) return this.onDenied(error.message);
    byId("policy-part").replaceChildren(
      make(
        "p",
        { class: "notice bad", role: "alert" },
        `The policy cannot be read: ${error.message}. While no policy can be relied on, nothing is permitted.`,
      ),
    );
  }

  /** What the check found comes later: it asks the policy thousands of questions. */
  async #check(gateway) {
    const { check } = await gateway.policy({ check: true });
    if (this.#gateway === gateway) byId("policy-check").replaceChildren(...checkNodes(check));
  }
}

function inForce({ in_force: now, digest }) {
  return make(
    "div",
    { class: "notice good" },
    make(
      "p",
      {},
      verdict(true, `In force: version ${now.version}`),
      ", since ",
      time(now.at_ms),
      `, set by ${whoWords(now.who)}`,
    ),
    now.note ? make("p", {}, `Why: ${now.note}`) : null,
    make("p", { class: "hint" }, "Every receipt names the policy that decided: ", make("code", {}, digest)),
  );
}

function rules(policy) {
  return make(
    "section",
    { class: "part", "aria-labelledby": "rules-title" },
    make("h2", { id: "rules-title" }, "The rules"),
    make(
      "p",
      {},
      "What no rule permits is forbidden, and one rule that forbids outweighs all that permit. ",
      "Beside each rule in words stands its text, which is what the machine reads (in the language Cedar).",
    ),
    make("ol", { class: "rules" }, ...policy.rules.map(ruleItem)),
  );
}

function checkPart() {
  return make(
    "section",
    { class: "part", "aria-labelledby": "check-title" },
    make("h2", { id: "check-title" }, "What the rules come to"),
    make("div", { id: "policy-check", "aria-live": "polite" }, make("p", { class: "hint" }, "Trying the rules…")),
  );
}

function checkNodes(check) {
  const findings = check.findings.map(({ severity, message, example }) =>
    make(
      "div",
      { class: `notice ${severity === "error" ? "bad" : "warn"}` },
      make("p", {}, `${severity === "error" ? "Error" : "Warning"}: ${message}`),
      example ? make("p", {}, `Such as: ${example}`) : null,
    ),
  );
  const fine = make("p", {}, verdict(true, "Nothing found that nobody can have meant."));
  const forbidden = Object.entries(check.forbidden_by).map(([name, number]) => [name, counted(number, "question")]);
  return [
    ...(findings.length ? findings : [fine]),
    make(
      "p",
      {},
      `The check asked ${count(check.num_asked)} made-up questions of all kinds, not real ones: `,
      `${count(check.num_permitted)} were permitted. The others were forbidden by these rules, some by several:`,
    ),
    facts([...forbidden, ["no rule at all", counted(check.num_uncovered, "question")]]),
  ];
}

function history({ history: versions, num_versions }) {
  const cell = (name, ...content) => make("td", { role: "cell", "data-name": name }, ...content);
  const rows = versions.map((one, place) =>
    make(
      "tr",
      { role: "row" },
      make("th", { scope: "row", role: "rowheader" }, `Version ${one.version}`),
      cell("Since", time(one.at_ms), place === 0 ? " (in force)" : ""),
      cell("Set by", whoWords(one.who)),
      cell("Why", one.note ?? "not said"),
    ),
  );
  const head = ["Version", "Since", "Set by", "Why"].map((name) =>
    make("th", { scope: "col", role: "columnheader" }, name),
  );
  const more = num_versions > versions.length ? `The latest ${versions.length} of ${num_versions}. ` : "";
  return make(
    "section",
    { class: "part", "aria-labelledby": "history-title" },
    make("h2", { id: "history-title" }, "What was in force when"),
    make(
      "table",
      { role: "table", class: "rows", "aria-labelledby": "history-title" },
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...head)),
      make("tbody", { role: "rowgroup" }, ...rows),
    ),
    make(
      "p",
      { class: "hint" },
      `${more}Each version is a signed entry of a log, from which none can be taken out unseen. `,
      "Another policy comes into force with ",
      make("code", {}, "allod policy set"),
      ".",
    ),
  );
}

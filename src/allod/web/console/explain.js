// The form that asks the policy why: a request is put together, and the answer is what would be decided, and why.

import { announce, facts, make, verdict } from "./dom.js";
import { ruleItem } from "./rule.js";
import { labelWords, listed } from "./words.js";

export class ExplainForm {
  #gateway;
  #answer = make("div", { class: "part", id: "explained", tabIndex: -1 });
  #form;

  /** `words` are the realm's, as the gateway lists them; `tenants` those that can ask. */
  constructor(gateway, { words, tenants }) {
    this.#gateway = gateway;
    const active = tenants.filter((tenant) => tenant.status !== "archived");
    const ask = make("button", { class: "main", type: "submit" }, "Ask why");
    this.#form = make(
      "form",
      { class: "card why" },
      choice(
        "tenant",
        "Who asks",
        active.map(({ id, name }) => [id, name]),
        "local",
      ),
      choice(
        "tier",
        "How sensitive it is",
        words.tiers.map((tier) => [tier, tier]),
      ),
      choice("purpose", "What for", [
        ["", "not said"],
        ...words.purposes.map(({ name, meaning }) => [name, `${name}: ${meaning}`]),
      ]),
      choice(
        "model",
        "Which model",
        words.models.map((name) => [name, name]),
      ),
      markings(words.markings),
      make("div", { class: "row" }, ask),
    );
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask(ask);
    });
    this.element = make(
      "section",
      { class: "part", "aria-labelledby": "why-title" },
      make("h2", { id: "why-title" }, "Ask why"),
      make(
        "p",
        {},
        "Put a request together and see what would be decided. Nothing is sent to a model, and nothing is logged.",
      ),
      this.#form,
      this.#answer,
    );
  }

  async #ask(button) {
    const said = new FormData(this.#form);
    const request = {
      tenant: said.get("tenant"),
      tier: said.get("tier"),
      purpose: said.get("purpose") || null,
      model: said.get("model"),
      markings: said.getAll("marking"),
    };
    button.disabled = true;
    try {
      const told = await this.#gateway.explain(request);
      this.#answer.replaceChildren(...explained(told));
      announce(told.decision === "permit" ? "It would be permitted." : "It would be refused.");
    } catch (error) {
      this.#answer.replaceChildren(make("p", { class: "notice bad", role: "alert" }, error.message));
    }
    button.disabled = false;
  }
}

function choice(name, label, options, chosen) {
  const id = `why-${name}`;
  const select = make(
    "select",
    { id, name },
    ...options.map(([value, text]) => make("option", { value, selected: value === chosen }, text)),
  );
  return make("p", { class: "field" }, make("label", { htmlFor: id }, label), select);
}

function markings(known) {
  if (!known.length) return null;
  return make(
    "fieldset",
    {},
    make("legend", {}, "Markings"),
    ...known.map(({ name, meaning }, place) =>
      make(
        "p",
        { class: "tick" },
        make("input", { type: "checkbox", name: "marking", value: name, id: `why-marking-${place}` }),
        make("label", { htmlFor: `why-marking-${place}` }, name, " ", make("span", { class: "hint" }, meaning)),
      ),
    ),
  );
}

function explained(told) {
  const isPermitted = told.decision === "permit";
  return [
    make(
      "div",
      { class: `notice ${isPermitted ? "good" : "bad"}` },
      make("p", {}, verdict(isPermitted, isPermitted ? "It would be permitted" : "It would be refused")),
      make("p", {}, told.reason),
    ),
    ...changes(told),
    make("h3", {}, told.rules.length ? "The rules that decide" : "No rule decides: what no rule permits is forbidden"),
    make("ol", { class: "rules" }, ...told.rules.map(ruleItem)),
    facts([
      ["Label", labelWords(told.label)],
      ["Places", places(told.label.jurisdictions)],
      ["Asked", told.asked],
    ]),
  ];
}

const places = (codes) => (codes === null ? "anywhere" : codes.length ? listed(codes) : "none");

/** What would make it permitted. */
function changes({ decision, changes: ways, advice }) {
  if (decision === "permit") return [];
  if (!ways.length) return [make("h3", {}, "What would have to change"), make("p", {}, advice)];
  return [
    make("h3", {}, ways.length > 1 ? "What would have to change: one of these" : "What would have to change"),
    make("ul", { class: "ways" }, ...ways.map((way) => make("li", {}, sentence(listed(way))))),
  ];
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

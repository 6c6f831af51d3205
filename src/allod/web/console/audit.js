// The page of the audit: what administrators did, and every answer and refusal, in one list, newest first.

import { announce, byId, make } from "./dom.js";
import { events, merged, receipts } from "./entries.js";
import { count, counted } from "./words.js";

const PAGE = 20;
const SHOW = [
  ["all", "Everything"],
  ["administration", "Administration"],
  ["answers", "Answers"],
  ["refusals", "Refusals"],
];

export class AuditPage {
  #gateway = null;
  #streams = [];
  #known = { names: new Map(), reasons: new Map() }; // tenants by id, reasons by `policy's digest rule's name`
  #list = make("ol", { class: "entries", "aria-label": "Entries" });
  #note = make("p", { class: "hint" });
  #older = make("button", { type: "button" }, "Show older entries");
  #reading = 0; // counts what was begun: only the newest may show anything

  /** `onDenied` is called when the gateway no longer takes the key. */
  constructor({ onDenied }) {
    this.onDenied = onDenied;
    this.#older.addEventListener("click", () => this.#more());
  }

  /** Show the latest of everything. */
  async open(gateway) {
    this.#gateway = gateway;
    byId("audit-part").replaceChildren(make("p", { class: "hint" }, "Reading…"));
    try {
      const [tenants, policy] = await Promise.all([gateway.tenants(), gateway.policy().catch(() => null)]);
      if (this.#gateway !== gateway) return;
      this.#known = {
        names: new Map(tenants.map(({ id, name }) => [id, name])),
        reasons: new Map(policy?.rules.map(({ name, reason }) => [`${policy.digest} ${name}`, reason])),
      };
      byId("audit-part").replaceChildren(this.#filters(tenants), this.#list, this.#note, this.#older);
      await this.#restart();
    } catch (error) {
      this.#fail(error);
    }
  }

  close() {
    this.#gateway = null;
    this.#reading += 1;
  }

  #filters(tenants) {
    const select = (id, label, options) =>
      make(
        "p",
        { class: "field" },
        make("label", { htmlFor: id }, label),
        make("select", { id }, ...options.map(([value, text]) => make("option", { value }, text))),
      );
    const again = make("button", { type: "button" }, "Read again");
    const form = make(
      "form",
      { class: "filters", "aria-label": "Filters" },
      select("audit-show", "Show", SHOW),
      select("audit-tenant", "Tenant", [["", "All tenants"], ...tenants.map(({ id, name }) => [id, name])]),
      again,
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => this.#restart());
    again.addEventListener("click", () => this.#restart());
    return form;
  }

  /** Begin the list anew, as the filters say. */
  async #restart() {
    const [show, tenant] = [byId("audit-show").value, byId("audit-tenant").value || null];
    this.#streams = [];
    if (show === "all" || show === "administration") this.#streams.push(events(this.#gateway, tenant));
    if (show !== "administration") {
      const decision = { answers: "permit", refusals: "forbid" }[show] ?? null;
      this.#streams.push(receipts(this.#gateway, { tenant, decision }));
    }
    this.#list.replaceChildren();
    await this.#more();
  }

  async #more() {
    const reading = (this.#reading += 1);
    const isOld = () => reading !== this.#reading;
    this.#older.disabled = true;
    this.#note.textContent = "Reading…";
    try {
      const found = await merged(this.#streams, PAGE, isOld);
      if (isOld()) return;
      this.#list.append(...found.map((entry) => entry.show(this.#gateway, this.#known)));
      const isAll = this.#streams.every((stream) => stream.isOver);
      this.#older.hidden = isAll;
      this.#note.textContent = this.#noteWords(isAll);
      announce(`${counted(this.#list.children.length, "entry", "entries")} shown.`);
    } catch (error) {
      if (!isOld()) this.#fail(error);
    }
    this.#older.disabled = false;
  }

  #noteWords(isAll) {
    const number = this.#list.children.length;
    if (!number) return isAll ? "There is nothing of that kind." : "Nothing of that kind among the latest entries.";
    return isAll ? `That is all: ${counted(number, "entry", "entries")}.` : `The latest ${count(number)} entries.`;
  }

  #fail(error) {
    if (error.status === 401) return this.onDenied(error.message);
    byId("audit-part").replaceChildren(
      make("p", { class: "notice bad", role: "alert" }, `The audit cannot be read: ${error.message}`),
    );
  }
}

// The page of the audit: what administrators did, and every answer and refusal, in one list, newest first.

import { announce, byId, facts, make, verdict } from "./dom.js";
import { actorWords, eventFacts, eventWords } from "./events.js";
import { Receipt } from "./receipt.js";
import { count, counted, labelWords, time } from "./words.js";

const PAGE = 20;
const TRIES = 5; // readings of the log that may find nothing before the reader is asked whether to go on
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
    byId("audit").replaceChildren(make("p", { class: "hint" }, "Reading…"));
    try {
      const [tenants, policy] = await Promise.all([gateway.tenants(), gateway.policy().catch(() => null)]);
      if (this.#gateway !== gateway) return;
      this.#known = {
        names: new Map(tenants.map(({ id, name }) => [id, name])),
        reasons: new Map(policy?.rules.map(({ name, reason }) => [`${policy.digest} ${name}`, reason])),
      };
      byId("audit").replaceChildren(this.#filters(tenants), this.#list, this.#note, this.#older);
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
    byId("audit").replaceChildren(
      make("p", { class: "notice bad", role: "alert" }, `The audit cannot be read: ${error.message}`),
    );
  }
}

/** Entries that come in pages, read only as far as they are wanted. `read(cursor)` gives {entries, cursor}. */
class Stream {
  #read;
  #cursor = null;
  #waiting = [];
  #isRead = false;

  constructor(read) {
    this.#read = read;
  }

  /** Whether nothing is left. */
  get isOver() {
    return this.#isRead && !this.#waiting.length;
  }

  /** The next entry, which stays; null where there is none, or none was found in some readings. */
  async peek() {
    for (let tries = 0; !this.#waiting.length && !this.#isRead && tries < TRIES; tries += 1) {
      const { entries, cursor } = await this.#read(this.#cursor);
      this.#waiting = entries;
      this.#cursor = cursor;
      this.#isRead = cursor === null;
    }
    return this.#waiting[0] ?? null;
  }

  take() {
    return this.#waiting.shift();
  }
}

/** The next `number` entries of all streams, newest first. Ends early where one stream cannot say what comes next. */
async function merged(streams, number, isOld) {
  const found = [];
  while (found.length < number && !isOld()) {
    const next = await Promise.all(streams.map((stream) => stream.peek()));
    if (streams.some((stream, place) => next[place] === null && !stream.isOver)) break;
    const newest = Math.max(...next.map((entry) => entry?.atMs ?? -1));
    if (newest < 0) break;
    found.push(streams[next.findIndex((entry) => entry?.atMs === newest)].take());
  }
  return found;
}

function events(gateway, tenant) {
  return new Stream(async (after) => {
    const { data, has_more, last_id } = await gateway.events({ limit: PAGE, after, project_ids: tenant });
    return { entries: data.map((event) => new EventEntry(event)), cursor: has_more ? last_id : null };
  });
}

function receipts(gateway, filters) {
  return new Stream(async (before) => {
    const found = await gateway.receipts({ ...filters, limit: PAGE, before });
    return { entries: found.data.map((receipt) => new ReceiptEntry(receipt)), cursor: found.before };
  });
}

class EventEntry {
  #event;

  constructor(event) {
    this.#event = event;
    this.atMs = event.effective_at * 1000;
  }

  show(_, { names }) {
    const event = this.#event;
    const about = event.project ? (names.get(event.project.id) ?? event.project.id) : "the whole realm";
    return item(
      [verdict(null, eventWords(event)), time(this.atMs)],
      make("p", {}, `By ${actorWords(event)}, for ${about}`),
      make("details", {}, make("summary", {}, "Details"), facts(eventFacts(event))),
    );
  }
}

class ReceiptEntry {
  #receipt;

  constructor(receipt) {
    this.#receipt = receipt;
    this.atMs = receipt.at_ms;
  }

  show(gateway, { reasons }) {
    const receipt = this.#receipt;
    const isAnswer = receipt.decision === "permit";
    const why = isAnswer ? [] : receipt.rules.map((rule) => reasons.get(`${receipt.policy} ${rule}`) ?? `By the rule ${rule}.`);
    return item(
      [verdict(isAnswer, isAnswer ? answerWords(receipt) : "Refused by policy"), time(this.atMs)],
      why.length ? make("p", { class: "reason" }, why.join(" ")) : null,
      make("p", {}, make("span", { class: "label" }, labelWords(receipt.label)), " ", whoWords(receipt), tokenWords(receipt)),
      this.#proof(gateway),
    );
  }

  /** The receipt itself is fetched and verified once somebody opens it. */
  #proof(gateway) {
    const details = make("details", {}, make("summary", {}, "Receipt"));
    details.addEventListener("toggle", async () => {
      if (!details.open || details.children.length > 1) return;
      const receipt = new Receipt(gateway, this.#receipt.id, null);
      details.append(receipt.element);
      announce(await receipt.verify());
    });
    return details;
  }
}

function item(head, ...more) {
  return make("li", { class: "entry" }, make("div", { class: "head" }, ...head), ...more);
}

const FINISHES = { stop: "Answered", tool_calls: "Answered", length: "Answered up to its limit", cancelled: "Broken off by the client", error: "Broken off by an error" };

const answerWords = ({ finish }) => FINISHES[finish] ?? `Answered (${finish})`;

const whoWords = ({ tenant }) => (tenant === null ? "a tenant that can no longer be named" : tenant.name);

function tokenWords({ model, tokens }) {
  const { prompt, completion } = tokens;
  const by = model ? `, by ${model}` : "";
  return prompt === null && completion === null ? by : `${by}: ${counted(prompt ?? 0, "token")} in, ${count(completion ?? 0)} out`;
}

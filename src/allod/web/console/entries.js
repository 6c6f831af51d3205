// The entries of the audit: read page by page, brought into one order, and shown.

import { announce, facts, make, verdict } from "./dom.js";
import { actorWords, eventFacts, eventWords } from "./events.js";
import { Receipt } from "./receipt.js";
import { count, counted, labelWords, time } from "./words.js";

const PAGE = 20;
const TRIES = 5; // readings of the log that may find nothing before the reader is asked whether to go on

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
export async function merged(streams, number, isOld) {
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

/** What administrators did, for this tenant or for all (null). */
export function events(gateway, tenant) {
  return new Stream(async (after) => {
    const { data, has_more, last_id } = await gateway.events({ limit: PAGE, after, project_ids: tenant });
    return { entries: data.map((event) => new EventEntry(event)), cursor: has_more ? last_id : null };
  });
}

/** Answers and refusals, by the filters of `Gateway.receipts`. */
export function receipts(gateway, filters) {
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
      verdict(null, eventWords(event)),
      time(this.atMs),
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
    const why = isAnswer
      ? []
      : receipt.rules.map((rule) => reasons.get(`${receipt.policy} ${rule}`) ?? `By the rule ${rule}.`);
    return item(
      verdict(isAnswer, isAnswer ? answerWords(receipt) : "Refused by policy"),
      time(this.atMs),
      why.length ? make("p", { class: "reason" }, why.join(" ")) : null,
      make(
        "p",
        {},
        make("span", { class: "label" }, labelWords(receipt.label)),
        " ",
        whoWords(receipt),
        tokenWords(receipt),
      ),
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

function item(what, when, ...more) {
  return make("li", { class: "entry" }, make("div", { class: "head" }, make("h2", {}, what), when), ...more);
}

const FINISHES = {
  stop: "Answered",
  tool_calls: "Answered",
  length: "Answered up to its limit",
  cancelled: "Broken off by the client",
  error: "Broken off by an error",
};

const answerWords = ({ finish }) => FINISHES[finish] ?? `Answered (${finish})`;

const whoWords = ({ tenant }) => (tenant === null ? "a tenant that can no longer be named" : tenant.name);

function tokenWords({ model, tokens }) {
  const { prompt, completion } = tokens;
  const by = model ? `, by ${model}` : "";
  return prompt === null && completion === null
    ? by
    : `${by}: ${counted(prompt ?? 0, "token")} in, ${count(completion ?? 0)} out`;
}

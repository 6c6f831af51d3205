// The page of replicas: the processes that answer, how each does, and what an administrator does with one.

import { announce, byId, fill, make, verdict } from "./dom.js";
import { poll } from "./polling.js";
import { count, counted, duration, percent, time } from "./words.js";

const READ_EVERY_MS = 1500;
const DONE = {
  drain: "is drained: it is sent nothing new",
  resume: "is sent requests again",
  restart: "is drained, and then started again",
};

export class ReplicasPage {
  #stop = null;
  #gateway = null;
  #cards = new Map(); // by model and number
  #question = new Question();

  /** `onDenied` is called when the gateway no longer takes the key. */
  constructor({ onDenied }) {
    this.onDenied = onDenied;
  }

  /** Show the replicas, and keep them true until `close`. */
  open(gateway) {
    this.close();
    this.#gateway = gateway;
    this.#cards.clear();
    byId("replicas-part").replaceChildren(make("p", { class: "hint" }, "Reading…"));
    this.#stop = poll(
      READ_EVERY_MS,
      async () => {
        const { data } = await gateway.replicas();
        if (this.#stop && this.#gateway === gateway) this.#show(data);
      },
      (error) => this.#fail(error),
    );
  }

  close() {
    this.#stop?.();
    this.#stop = null;
    this.#question.close();
  }

  #fail(error) {
    if (error.status === 401) return this.onDenied(error.message);
    this.#question.close();
    this.#cards.clear();
    byId("replicas-part").replaceChildren(
      make("p", { class: "notice bad", role: "alert" }, `The replicas cannot be read: ${error.message}`),
    );
  }

  #show(rows) {
    if (!byId("replica-list")) {
      byId("replicas-part").replaceChildren(
        make("p", { id: "replicas-now", class: "now" }),
        make("ul", { id: "replica-list", class: "tenants", "aria-label": "Replicas" }),
        this.#question.element,
      );
    }
    fill(byId("replicas-now"), nowWords(rows));
    const names = rows.map(nameOf);
    for (const [name, card] of this.#cards) {
      if (names.includes(name)) continue;
      card.element.remove();
      this.#cards.delete(name);
    }
    rows.forEach((row, place) => this.#showOne(row, place));
  }

  #showOne(row, place) {
    const list = byId("replica-list");
    const card = this.#cards.get(nameOf(row)) ?? new Card(row, (asked, action) => this.#ask(asked, action));
    this.#cards.set(nameOf(row), card);
    if (list.children[place] !== card.element) list.insertBefore(card.element, list.children[place] ?? null);
    card.show(row);
  }

  async #ask(card, action) {
    const { model, replica } = card.row;
    if (action === "restart" && !(await this.#question.ask(card.row))) return;
    card.say("");
    try {
      card.show(await this.#gateway.steer({ model, replica, action }));
      announce(`${nameOf(card.row)} ${DONE[action]}.`);
    } catch (error) {
      if (error.status === 401) return this.onDenied(error.message);
      card.say(`The gateway did not ${action} it: ${error.message}`);
    }
  }
}

/** One replica; its elements stay where they are while their texts change. */
class Card {
  #state = make("p", { class: "state-now" });
  #why = make("p", {});
  #facts = make("dl", { class: "facts" });
  #values = new Map(); // the facts' elements, by their names
  #error = make("p", { class: "error", role: "alert" });
  #drain = make("button", { type: "button", class: "quiet" });
  #isAsking = false;

  /** `ask(card, action)` does what a button says. */
  constructor(row, ask) {
    this.row = row;
    this.ask = ask;
    const title = make("h2", {}, nameOf(row));
    const restart = make("button", { type: "button", class: "quiet", "aria-label": `Restart: ${nameOf(row)}` });
    restart.textContent = "Restart…";
    restart.addEventListener("click", () => this.#click("restart"));
    this.#drain.addEventListener("click", () => this.#click(this.row.state === "draining" ? "resume" : "drain"));
    const buttons = make("div", { class: "row" }, this.#drain, restart);
    const head = make("div", { class: "head" }, title, this.#state);
    this.element = make("li", { class: "card tenant replica" }, head, this.#why, this.#facts, this.#error, buttons);
  }

  show(row) {
    this.row = row;
    fill(this.#state, verdict(STATES[row.state]?.is_good ?? null, STATES[row.state]?.words ?? row.state));
    fill(this.#why, row.why ? `Why: ${row.why}` : "");
    this.#why.hidden = !row.why;
    for (const [name, value] of factsOf(row)) this.#showFact(name, value);
    const word = row.state === "draining" ? "Resume" : "Drain";
    fill(this.#drain, word);
    this.#drain.setAttribute("aria-label", `${word}: ${nameOf(row)}`);
  }

  /** Why it was not done; empty for nothing. */
  say(text) {
    fill(this.#error, text);
  }

  #showFact(name, value) {
    if (!this.#values.has(name)) {
      const element = make("dd", {});
      this.#values.set(name, element);
      this.#facts.append(make("div", {}, make("dt", {}, name), element));
    }
    fill(this.#values.get(name), value);
  }

  async #click(action) {
    if (this.#isAsking) return; // the button is not disabled, which would lose the reader's place
    this.#isAsking = true;
    await this.ask(this, action);
    this.#isAsking = false;
  }
}

/** Asks whether a replica is to be started again, and answers with whether it is. */
class Question {
  #title = make("h2", { id: "restart-title" });
  #answer = null;

  constructor() {
    const button = (value, text, kind) => {
      const made = make("button", { type: "button", class: kind }, text);
      made.addEventListener("click", () => this.element.close(value));
      return made;
    };
    const words =
      "It is sent nothing new, and ends once it works on nothing; the others answer meanwhile. " +
      "What it remembers of prompts is lost.";
    this.element = make(
      "dialog",
      { "aria-labelledby": "restart-title" },
      this.#title,
      make("p", {}, words),
      make("div", { class: "row" }, button("no", "Leave it", ""), button("yes", "Start it again", "stop")),
    );
    this.element.addEventListener("close", () => this.#answer?.(this.element.returnValue === "yes"));
  }

  ask(row) {
    fill(this.#title, `Start ${nameOf(row)} again?`);
    this.element.returnValue = "no"; // which Escape leaves
    this.element.showModal();
    return new Promise((answer) => (this.#answer = answer));
  }

  close() {
    if (this.element.open) this.element.close("no");
  }
}

const STATES = {
  up: { is_good: true, words: "up" },
  suspect: { is_good: false, words: "suspect: asked last for a while" },
  draining: { is_good: null, words: "draining: sent nothing new" },
  starting: { is_good: null, words: "starting" },
  down: { is_good: false, words: "down" },
};

const nameOf = ({ model, replica }) => `${model}, replica ${replica}`;

function nowWords(rows) {
  if (!rows.length) return "No engine here is made of replicas: it is part of the gateway.";
  const asked = rows.filter(({ state }) => state === "up" || state === "suspect");
  const running = rows.reduce((sum, row) => sum + row.num_running, 0);
  return `${count(asked.length)} of ${counted(rows.length, "replica")} are asked. They work on ${counted(running, "request")}.`;
}

/** Everything that is said of one, in words. */
function factsOf(row) {
  const starts = counted(row.num_starts, "time");
  return [
    ["Works on", `${count(row.num_running)} of up to ${counted(row.slots, "request")}`],
    ["Since the gateway started", `${count(row.num_answered)} answered, ${count(row.num_failed)} failed`],
    ["Writes", rateWords(row.pace)],
    ["First token", firstWords(row.pace)],
    ["Prompts", row.pace.cached_share === null ? UNKNOWN : `${percent(row.pace.cached_share)} from the cache`],
    ["Up since", row.started_ms ? [time(row.started_ms), `, came up ${starts}`] : `not up, came up ${starts}`],
    ["Process", row.pid === null ? "none" : `${row.pid}, ${row.engine}`],
    ["Site", `${row.site}, ${row.jurisdiction}`],
    ["Seal", row.seal],
    ["Evidence", evidenceWords(row.seal_proof)],
  ];
}

const UNKNOWN = "not measured";

const rateWords = ({ tokens_per_s: rate }) =>
  rate === null ? UNKNOWN : `${rate.toFixed(1)} tokens a second, over the last minute`;

function firstWords({ first_token_ms_p50: half, first_token_ms_p90: most }) {
  if (half === null) return UNKNOWN;
  return `half within ${duration(Math.round(half))}, nine of ten within ${duration(Math.round(most))}`;
}

function evidenceWords(proof) {
  if (proof === null) return "none while it is not up";
  return [make("code", {}, proof), " ", make("a", { href: "#seal" }, "How it is read")];
}

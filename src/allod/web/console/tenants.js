// The page of tenants: who has turns at the engine now, who used what today, and how much of its limits that is.

import { byId, fill, make, verdict } from "./dom.js";
import { poll } from "./polling.js";
import { count, counted, duration, listed, money, percent } from "./words.js";

const READ_EVERY_MS = 1500;
const WINDOW_MS = 30_000; // what was given out in this time is shown beside what is due
const NEARLY = 0.8; // of a limit

export class TenantsPage {
  #stop = null;
  #common = new Limits("All tenants together");
  #cards = new Map(); // by the tenants' ids
  #given = new Given();

  /** `onDenied` is called when the gateway no longer takes the key. */
  constructor({ onDenied }) {
    this.onDenied = onDenied;
  }

  /** Show the tenants, and keep them true until `close`. */
  open(gateway) {
    this.close();
    this.#cards.clear();
    this.#given = new Given();
    byId("tenants-part").replaceChildren(make("p", { class: "hint" }, "Reading…"));
    this.#stop = poll(
      READ_EVERY_MS,
      async () => {
        const sharing = await gateway.shares();
        if (this.#stop) this.#show(sharing);
      },
      (error) => this.#fail(error),
    );
  }

  close() {
    this.#stop?.();
    this.#stop = null;
  }

  #fail(error) {
    if (error.status === 401) return this.onDenied(error.message);
    this.#cards.clear();
    byId("tenants-part").replaceChildren(
      make("p", { class: "notice bad", role: "alert" }, `The shares cannot be read: ${error.message}`),
    );
  }

  #show(sharing) {
    if (!byId("tenant-list")) {
      byId("tenants-part").replaceChildren(
        make("p", { id: "tenants-now", class: "now" }),
        this.#common.element,
        make("ul", { id: "tenant-list", class: "tenants", "aria-label": "Tenants" }),
        make("p", { id: "tenants-clock", class: "hint" }),
      );
    }
    const given = this.#given.add(sharing);
    const tenants = [...sharing.data].sort((a, b) => a.name.localeCompare(b.name, "en-GB") || (a.id < b.id ? -1 : 1));
    setText("tenants-now", nowWords(sharing));
    setText("tenants-clock", clockWords(sharing));
    this.#common.element.hidden = !sharing.common_limits.length;
    this.#common.show(sharing.common_limits, sharing.currency);
    for (const id of this.#cards.keys()) if (!tenants.some((tenant) => tenant.id === id)) this.#drop(id);
    tenants.forEach((tenant, place) => this.#showOne(tenant, place, given.get(tenant.id) ?? 0, sharing.currency));
  }

  #showOne(tenant, place, given, currency) {
    const list = byId("tenant-list");
    const card = this.#cards.get(tenant.id) ?? new Card();
    this.#cards.set(tenant.id, card);
    if (list.children[place] !== card.element) list.insertBefore(card.element, list.children[place] ?? null);
    card.show(tenant, given, currency);
  }

  #drop(id) {
    this.#cards.get(id).element.remove();
    this.#cards.delete(id);
  }
}

/** What each tenant was charged for turns within the last `WINDOW_MS`, as parts of the whole. */
class Given {
  #readings = []; // [at, services by tenant], the oldest first

  add({ at_ms, data }) {
    this.#readings.push([at_ms, new Map(data.map((tenant) => [tenant.id, tenant.service]))]);
    while (this.#readings.length > 2 && this.#readings[1][0] <= at_ms - WINDOW_MS) this.#readings.shift();
    const [[, before]] = this.#readings;
    const more = data.map(({ id, service }) => [id, grown(before.get(id) ?? 0, service)]);
    const whole = more.reduce((sum, [, amount]) => sum + amount, 0);
    return new Map(more.map(([id, amount]) => [id, whole ? amount / whole : 0]));
  }
}

/** A counter that is lower than it was has started anew. */
const grown = (before, now) => (now >= before ? now - before : now);

/** One tenant; its elements stay where they are while their texts change. */
class Card {
  #name = make("h2", {});
  #state = make("p", { class: "state-now" });
  #due = new Row("Share due now");
  #given = new Row("Share had, last 30 s");
  #today = make("p", {});
  #limits = new Limits();

  constructor() {
    const shares = make("div", { class: "shares" }, ...this.#due.nodes, ...this.#given.nodes);
    const head = make("div", { class: "head" }, this.#name, this.#state);
    this.element = make("li", { class: "card tenant" }, head, shares, this.#today, this.#limits.element);
  }

  show(tenant, given, currency) {
    fill(this.#name, tenant.name);
    fill(this.#state, stateWords(tenant));
    this.#due.show(tenant.share, tenant.share ? `${percent(tenant.share)} of the work` : "nothing asked");
    this.#given.show(given, given ? `${percent(given)} of the work done` : "nothing");
    fill(this.#today, `Used today: ${todayWords(tenant.today, currency)}.`);
    this.#limits.show(tenant.limits, currency);
  }
}

/** Limits with what is used of each; with a title, a card of its own. */
class Limits {
  #rows = make("div", { class: "shares" });
  #shown = "";

  constructor(title = "") {
    this.element = title ? make("div", { class: "card tenant" }, make("h2", {}, title), this.#rows) : this.#rows;
  }

  show(limits, currency) {
    const text = JSON.stringify([limits, currency]);
    if (this.#shown === text) return; // the reader's place is kept
    this.#shown = text;
    const rows = limits.flatMap((limit) => {
      const row = new Row(limitName(limit));
      const part = limit.used === null ? 0 : Math.min(1, limit.used / limit.limit);
      row.show(part, limitWords(limit, currency), part >= 1 ? "full" : part >= NEARLY ? "nearly" : "");
      return row.nodes;
    });
    this.#rows.replaceChildren(...(rows.length ? rows : [make("p", { class: "hint" }, "No limits are set.")]));
  }
}

/** A name, a bar, and what the bar says in words. */
class Row {
  #fill = make("span", {});
  #bar = make("span", { class: "bar", "aria-hidden": "true" }, this.#fill);
  #text = make("span", { class: "said" });

  constructor(name) {
    this.nodes = [make("span", { class: "name" }, name), this.#bar, this.#text];
  }

  show(part, text, kind = "") {
    this.#fill.style.inlineSize = `${part * 100}%`;
    this.#bar.className = `bar ${kind}`;
    fill(this.#text, text);
  }
}

function nowWords({ data, num_slots }) {
  const running = data.reduce((sum, tenant) => sum + tenant.num_running, 0);
  const waiting = data.reduce((sum, tenant) => sum + tenant.num_waiting, 0);
  const works = running ? `The engine works on ${counted(running, "request")}` : "The engine is free";
  const waits = waiting ? `${count(waiting)} wait${waiting === 1 ? "s" : ""}` : "nobody waits";
  return `${works}, ${waits}. It works on up to ${count(num_slots)} at a time.`;
}

function clockWords({ at_ms, data, num_tenants }) {
  const read = `Read at ${new Date(at_ms).toLocaleTimeString("en-GB")}, and again every two seconds while you look.`;
  const some = `Shown are ${count(data.length)} of ${count(num_tenants)} tenants: the busy ones, then by use today.`;
  return `${data.length < num_tenants ? some : ""} ${read} Days are counted in UTC.`.trim();
}

function stateWords({ num_running, num_waiting, weight, priority }) {
  const busy = [num_running && `${count(num_running)} running`, num_waiting && `${count(num_waiting)} waiting`];
  const words = busy.filter(Boolean).join(", ");
  const more = `weight ${count(weight)}${priority ? ", batch: after the others" : ""}`;
  return [words ? make("strong", {}, words) : "idle", ` · ${more}`];
}

function todayWords(today, currency) {
  const tokens = today.prompt_tokens + today.completion_tokens;
  const said = [counted(today.requests, "answer")];
  if (today.refused) said.push(counted(today.refused, "refusal"));
  if (tokens)
    said.push(
      `${counted(tokens, "token")} (${count(today.prompt_tokens)} read, ${count(today.completion_tokens)} written)`,
    );
  if (today.engine_ms) said.push(`${duration(today.engine_ms)} of engine time`);
  if (today.micros) said.push(money(today.micros, currency));
  return today.requests || today.refused ? listed(said) : "nothing yet";
}

const UNITS = {
  requests: "Requests",
  tokens: "Tokens",
  engine_ms: "Engine time",
  millijoules: "Energy",
  micros: "Cost",
};
const PERIODS = { now: "at a time", minute: "a minute", day: "a day", month: "a month" };

const limitName = ({ unit, period, model }) => `${UNITS[unit]} ${PERIODS[period]}${model ? `, ${model}` : ""}`;

function limitWords({ unit, limit, used }, currency) {
  const amount = (number) => {
    if (unit === "engine_ms") return duration(number);
    if (unit === "millijoules") return `${count(number / 1000)} J`;
    return unit === "micros" ? money(number, currency) : count(number);
  };
  if (used === null) return `not measured, of ${amount(limit)}`;
  const words = `${amount(used)} of ${amount(limit)}, ${percent(used / limit)}`;
  if (used >= limit) return [`${words} `, verdict(false, "reached")];
  return used >= NEARLY * limit ? [`${words} `, make("strong", {}, "nearly reached")] : words;
}

const setText = (id, text) => fill(byId(id), text);

// The gateway's HTTP, as far as the console uses it. Same origin only; the key travels in one header.

import { events } from "./stream.js";

const MAX_TENANTS = 1000;

/** What the gateway, or the way to it, said no with. `status` is 0 where there was no answer at all. */
export class GatewayError extends Error {
  constructor(message, { status = 0, code = null, receipt = null } = {}) {
    super(message);
    Object.assign(this, { status, code, receipt });
  }
}

export class Gateway {
  #key;

  constructor(key) {
    this.#key = key;
  }

  /** The model that answers: entry 0 of the list. */
  async model() {
    const list = await this.#json("/v1/models");
    if (!list.data?.length) throw new GatewayError("This gateway serves no model.");
    return list.data[0];
  }

  seal() {
    return this.#json("/v1/seal");
  }

  async trust() {
    return (await this.#send("/v1/trust")).text();
  }

  /** Who shares the engines: entry for entry, the busy tenants first. Needs an admin key, as all that follows does. */
  shares(limit = 100) {
    return this.#json(`/v1/governance/shares?limit=${limit}`);
  }

  /** The processes that answer: {data}, one entry a replica. */
  replicas() {
    return this.#json("/v1/governance/replicas");
  }

  /** Do `action` (drain, resume, restart) with one of them: {model, replica, action}. It is answered as it then is. */
  steer(wanted) {
    return this.#json("/v1/governance/replicas", { method: "POST", body: JSON.stringify(wanted) });
  }

  /** The policy in force; `check` also has it checked, which may take seconds. */
  policy({ check = false } = {}) {
    return this.#json(`/v1/governance/policy?check=${check}`);
  }

  /** Why a request would be permitted or refused. */
  explain(request) {
    return this.#json("/v1/governance/explain", { method: "POST", body: JSON.stringify(request) });
  }

  /** The latest receipts: {data, before}. `filters` may hold limit, before, tenant, decision; null ones are left out. */
  receipts(filters) {
    return this.#json(`/v1/governance/receipts${query(filters)}`);
  }

  /** What administrators did: {data, has_more, last_id}. `filters` may hold limit, after, project_ids. */
  events(filters) {
    return this.#json(`/v1/organization/audit_logs${query(filters)}`);
  }

  /** Every tenant, archived ones too, up to a thousand: [{id, name, ...}]. */
  async tenants() {
    const found = [];
    for (let page = { has_more: true, last_id: null }; page.has_more && found.length < MAX_TENANTS;) {
      const filters = { limit: 100, include_archived: true, after: page.last_id };
      page = await this.#json(`/v1/organization/projects${query(filters)}`);
      found.push(...page.data);
    }
    return found;
  }

  receipt(id) {
    return this.#json(`/v1/receipts/${encodeURIComponent(id)}`);
  }

  /**
   * Send `body`, the exact text of a chat request with `stream` true, and call `on.start(receipt)`, then
   * `on.text(piece)` for each piece. Resolves to the usage, or null, when the gateway has said that the answer is
   * complete, which it says only after the receipt is durable. Raises GatewayError otherwise.
   */
  async chat(body, { signal, on }) {
    const response = await this.#send("/v1/chat/completions", { method: "POST", body, signal });
    on.start(response.headers.get("x-allod-receipt"));
    let usage = null;
    try {
      for await (const data of events(response)) {
        if (data === "[DONE]") return usage;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new GatewayError(chunk.error.message, { code: chunk.error.code });
        usage = chunk.usage ?? usage;
        const text = chunk.choices?.[0]?.delta?.content;
        if (typeof text === "string") on.text(text);
      }
    } catch (error) {
      throw asGatewayError(error, "The answer broke off");
    }
    throw new GatewayError("The answer broke off before its receipt was complete. Do not rely on it.");
  }

  async #json(path, options) {
    return (await this.#send(path, options)).json();
  }

  async #send(path, options = {}) {
    const headers = { authorization: `Bearer ${this.#key}`, "content-type": "application/json" };
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
    } catch (error) {
      throw asGatewayError(error, "The gateway cannot be reached. Is it still running?");
    }
    if (response.ok) return response;
    const { message, code } = await errorOf(response);
    throw new GatewayError(message, {
      status: response.status,
      code,
      receipt: response.headers.get("x-allod-receipt"),
    });
  }
}

/** Whether the gateway can answer: {status, reason}. Needs no key. */
export async function readiness() {
  try {
    const response = await fetch("/readyz", { cache: "no-store", credentials: "omit" });
    const body = await response.json();
    return { ready: response.ok, reason: body.reason ?? body.status ?? `status ${response.status}` };
  } catch {
    return { ready: false, reason: "the gateway cannot be reached" };
  }
}

async function errorOf(response) {
  try {
    const { message, code } = (await response.json()).error;
    return { message, code: code ?? null };
  } catch {
    return { message: `The gateway answered with status ${response.status} and no reason.`, code: null };
  }
}

/** `?name=value&...` of what is not null; empty where nothing is. */
function query(filters = {}) {
  const said = Object.entries(filters).filter(([, value]) => value !== null && value !== undefined);
  return said.length ? `?${new URLSearchParams(said)}` : "";
}

function asGatewayError(error, message) {
  const isOurs = error instanceof GatewayError || error.name === "AbortError";
  return isOurs ? error : new GatewayError(`${message} (${error.message})`);
}

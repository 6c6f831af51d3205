// The console, put together: which page is shown, with which key, of which gateway.

import { Gateway, readiness } from "./api.js";
import { AuditPage } from "./audit.js";
import { Chat, INVENTS } from "./chat.js";
import { alertAll, announce, byId, facts, make, verdict } from "./dom.js";
import { askForKey, clearKeyField, forgetKey, onKey, saveKey, savedKey, showKeyError, whyNot } from "./key.js";
import { PolicyPage } from "./policy.js";
import { ReplicasPage } from "./replicas.js";
import { SealPage, isSealed } from "./seal.js";
import { TenantsPage } from "./tenants.js";

const WATCH_EVERY_MS = 4000;
/** Each page with its title and the kind of key that it needs; `any` is content with either. */
const PAGES = {
  chat: { title: "Chat", needs: "use" },
  tenants: { title: "Tenants", needs: "admin" },
  replicas: { title: "Replicas", needs: "admin" },
  policy: { title: "Policy", needs: "admin" },
  audit: { title: "Audit", needs: "admin" },
  seal: { title: "Seal", needs: "any" },
};

const denied = (kind) => (message) => leave(kind, `The gateway no longer takes this key: ${message}`);
const chat = new Chat({ onDenied: denied("use") });
const sealPage = new SealPage();
const governance = {
  tenants: new TenantsPage({ onDenied: denied("admin") }),
  replicas: new ReplicasPage({ onDenied: denied("admin") }),
  policy: new PolicyPage({ onDenied: denied("admin") }),
  audit: new AuditPage({ onDenied: denied("admin") }),
};
const gateways = { use: null, admin: null }; // one for each kind of key

const pageNow = () => (Object.hasOwn(PAGES, location.hash.slice(1)) ? location.hash.slice(1) : "chat");
const gatewayOf = (needs) => (needs === "any" ? (gateways.use ?? gateways.admin) : gateways[needs]);

/** The kind of key that the page now shown lacks, or null. */
function lacking() {
  const { needs } = PAGES[pageNow()];
  if (gatewayOf(needs)) return null;
  return needs === "admin" ? "admin" : "use";
}

/** Show the page that the address names, or the one that asks for the key that it needs. */
function route({ moveFocus = true } = {}) {
  const page = pageNow();
  const kind = lacking();
  const shown = kind ? "key" : page;
  for (const name of ["key", ...Object.keys(PAGES)]) byId(`page-${name}`).hidden = name !== shown;
  for (const link of byId("nav").querySelectorAll("a")) {
    if (link.hash === `#${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${kind ? `${PAGES[page].title}: key needed` : PAGES[page].title} · Allod console`;
  if (kind) {
    askForKey(kind);
    clearKeyField();
    showKeyError("");
  }
  if (moveFocus) {
    if (!kind) byId(`${shown}-title`).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  for (const [name, part] of Object.entries(governance)) {
    if (name === shown) part.open(gateways.admin);
    else part.close();
  }
  if (shown === "seal") sealPage.clear();
  showState();
}

async function enter(key, kind = lacking() ?? "use") {
  if (!/^[\x21-\x7e]+$/.test(key)) {
    showKeyError("A key has letters, digits and signs only: copy the whole line of the file, without spaces.");
    return;
  }
  const candidate = new Gateway(key);
  let model = null;
  try {
    if (kind === "use") model = await candidate.model();
    else await candidate.shares(1);
  } catch (error) {
    if (kind === "use" && error.status === 401) forgetKey();
    if (lacking() === kind) showKeyError(whyNot(error, kind));
    return;
  }
  gateways[kind] = candidate;
  clearKeyField();
  showForget();
  if (kind === "use") {
    saveKey(key);
    showModel(model);
  }
  route();
  if (kind === "use") chat.open(candidate, model);
  announce(kind === "use" ? `Ready to talk to ${model.id}.` : `${PAGES[pageNow()].title} is open.`);
}

/** Forget the key of this kind, and go on with the other one. */
function leave(kind, message) {
  if (kind === "use") {
    forgetKey();
    chat.clear();
  }
  gateways[kind] = null;
  showForget();
  route({ moveFocus: false });
  if (lacking() === kind) showKeyError(message);
}

function showForget() {
  byId("forget").hidden = gatewayOf("any") === null;
  byId("forget").textContent = gateways.use && gateways.admin ? "Forget keys" : "Forget key";
}

function forgetAll() {
  leave("admin", "");
  leave("use", "");
}

function showModel(model) {
  const about = model.allod ?? {};
  const tokens = about.context_tokens ? `${about.context_tokens.toLocaleString("en-GB")} tokens` : null;
  const from = [about.publisher, about.country].filter(Boolean).join(", ");
  const more = facts([
    ["From", from],
    ["Licence", about.licence],
    ["Context", tokens],
    ["Weights", about.digest],
  ]);
  byId("model").replaceChildren(
    make("details", { class: "model" }, make("summary", {}, "Model: ", make("strong", {}, model.id)), more),
    ...(about.informative === false ? [make("p", { class: "notice warn" }, INVENTS)] : []),
  );
}

/** Keep the page true: whether the gateway can answer, and whether its engine is sealed. One reading for both. */
async function showState() {
  const asked = gatewayOf("any");
  const [{ ready, reason }, seal] = await Promise.all([readiness(), asked && sealOf(asked)]);
  if (asked !== gatewayOf("any")) return; // the key changed meanwhile
  alertAll(ready ? "" : `The gateway cannot answer now: ${reason}`);
  byId("state").replaceChildren(verdict(ready, ready ? "Ready" : "Not ready"));
  if (seal === null) return;
  const sealed = isSealed(seal);
  byId("state").append(verdict(sealed, sealed ? "Sealed" : "Not sealed"));
  byId("unsealed").hidden = sealed;
  if (pageNow() === "seal") sealPage.show(seal);
}

const sealOf = (asked) => asked.seal().catch((error) => ({ error: error.message }));

async function watch() {
  if (!document.hidden) await showState();
  setTimeout(watch, WATCH_EVERY_MS);
}

onKey((key) => enter(key));
byId("forget").addEventListener("click", forgetAll);
addEventListener("hashchange", () => location.hash !== "#main" && route());
document.addEventListener("visibilitychange", () => document.hidden || showState());
route({ moveFocus: false });
setTimeout(watch, WATCH_EVERY_MS);
if (savedKey()) await enter(savedKey(), "use");

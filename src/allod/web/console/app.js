// The console, put together: which page is shown, with which key, of which gateway.

import { Gateway, readiness } from "./api.js";
import { Chat, INVENTS } from "./chat.js";
import { alertAll, announce, byId, facts, make, verdict } from "./dom.js";
import { clearKeyField, forgetKey, onKey, saveKey, savedKey, showKeyError } from "./key.js";
import { SealPage, isSealed } from "./seal.js";

const WATCH_EVERY_MS = 4000;
const TITLES = { key: "Open", chat: "Chat", seal: "Seal" };

const chat = new Chat({ onDenied: (message) => leave(`The gateway no longer takes this key: ${message}`) });
const sealPage = new SealPage();
let gateway = null;

/** Show the page that the address names, or the one that asks for the key. */
function route({ moveFocus = true } = {}) {
  const page = pageNow();
  for (const name of Object.keys(TITLES)) byId(`page-${name}`).hidden = name !== page;
  for (const link of byId("nav").querySelectorAll("a")) {
    if (link.hash === `#${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${TITLES[page]} · Allod console`;
  if (moveFocus) {
    byId(`${page}-title`).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  if (page === "seal") sealPage.clear();
  showState();
}

function pageNow() {
  if (gateway === null) return "key";
  return location.hash === "#seal" ? "seal" : "chat";
}

async function enter(key) {
  if (!/^[\x21-\x7e]+$/.test(key)) {
    showKeyError("A key has letters, digits and signs only: copy the whole line of the file, without spaces.");
    return;
  }
  const candidate = new Gateway(key);
  let model;
  try {
    model = await candidate.model();
  } catch (error) {
    const isWrong = error.status === 401;
    if (isWrong) forgetKey();
    showKeyError(isWrong ? `This key is not accepted: ${error.message}` : error.message);
    return;
  }
  saveKey(key);
  gateway = candidate;
  showKeyError("");
  clearKeyField();
  showSignedIn(true);
  showModel(model);
  route();
  chat.open(gateway, model);
  announce(`Ready to talk to ${model.id}.`);
}

function leave(message) {
  forgetKey();
  gateway = null;
  chat.clear();
  showSignedIn(false);
  route({ moveFocus: false });
  showKeyError(message);
}

function showSignedIn(isIn) {
  byId("nav").hidden = byId("forget").hidden = !isIn;
}

function showModel(model) {
  const about = model.allod ?? {};
  const tokens = about.context_tokens ? `${about.context_tokens.toLocaleString("en-GB")} tokens` : null;
  const from = [about.publisher, about.country].filter(Boolean).join(", ");
  const more = facts([["From", from], ["Licence", about.licence], ["Context", tokens], ["Weights", about.digest]]);
  byId("model").replaceChildren(
    make("details", { class: "model" }, make("summary", {}, "Model: ", make("strong", {}, model.id)), more),
    ...(about.informative === false ? [make("p", { class: "notice warn" }, INVENTS)] : []),
  );
}

/** Keep the page true: whether the gateway can answer, and whether its engine is sealed. One reading for both. */
async function showState() {
  const asked = gateway;
  const [{ ready, reason }, seal] = await Promise.all([readiness(), asked && sealOf(asked)]);
  if (asked !== gateway) return; // the key changed meanwhile
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

onKey(enter);
byId("forget").addEventListener("click", () => leave(""));
addEventListener("hashchange", () => location.hash !== "#main" && route());
document.addEventListener("visibilitychange", () => document.hidden || showState());
route({ moveFocus: false });
setTimeout(watch, WATCH_EVERY_MS);
if (savedKey()) await enter(savedKey());
else byId("key").focus();

// Keys. The one for use is asked for once a tab and kept in this tab's sessionStorage; the admin key in memory only.

import { byId } from "./dom.js";

const NAME = "allod.key";

/** What is asked for, and how: by the kind of key that a page needs. */
const WORDS = {
  use: {
    title: "Open the console",
    lead: "Ask a model that runs on this machine, and check the receipt of every answer yourself.",
    label: "Key",
    file: "local.key",
    kept:
      "The key stays in this browser tab and is gone when you close it. " +
      "This page stores nothing else and loads nothing from elsewhere.",
    wrongKind:
      "This is an admin key: it opens Tenants, Replicas, Policy and Audit. " +
      "Missing is a key for use, such as the one in local.key.",
  },
  admin: {
    title: "Admin key needed",
    lead: "This page shows what all tenants do. It opens with the admin key, which is not the key for the chat.",
    label: "Admin key",
    file: "admin.key",
    kept:
      "The admin key is kept in this page’s memory only: reload, and it is asked for again. " +
      "The chat goes on with its own key.",
    wrongKind: "This is a key for use, which opens the chat. Missing is the admin key: the text in the file admin.key.",
  },
};

export const savedKey = () => sessionStorage.getItem(NAME);
export const saveKey = (key) => sessionStorage.setItem(NAME, key);
export const forgetKey = () => sessionStorage.removeItem(NAME);

/** Let the form ask for a key of this kind, `use` or `admin`. */
export function askForKey(kind) {
  const words = WORDS[kind];
  byId("key-title").textContent = words.title;
  byId("key-lead").textContent = words.lead;
  byId("key-label").textContent = words.label;
  byId("key-file").textContent = words.file;
  byId("key-kept").textContent = words.kept;
}

/** Call `use(key)` for every key that is typed in. */
export function onKey(use) {
  byId("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.submitter ?? byId("key-form").querySelector("button");
    button.disabled = true;
    await use(byId("key").value.trim());
    button.disabled = false;
  });
}

/** Show why the last key was not taken; empty text for no reason. */
export function showKeyError(text) {
  byId("key-error").textContent = text;
  byId("key").setAttribute("aria-invalid", String(text !== ""));
  byId("key").focus();
}

/** Why a key that was asked for as `kind` cannot be taken: what the gateway said, in the console's words. */
export function whyNot(error, kind) {
  if (error.code === "wrong_kind_of_key") return WORDS[kind].wrongKind;
  return error.status === 401 ? `This key is not accepted: ${error.message}` : error.message;
}

export function clearKeyField() {
  byId("key").value = "";
}

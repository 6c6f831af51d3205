// The key: asked for once a tab, kept in this tab's sessionStorage and nowhere else.

import { byId } from "./dom.js";

const NAME = "allod.key";

export const savedKey = () => sessionStorage.getItem(NAME);
export const saveKey = (key) => sessionStorage.setItem(NAME, key);
export const forgetKey = () => sessionStorage.removeItem(NAME);

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

export function clearKeyField() {
  byId("key").value = "";
}

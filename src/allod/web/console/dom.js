// Making and replacing elements. Text goes in as text: nothing here, or anywhere in the console, parses HTML.

/**
 * An element. Properties are set as properties; `class`, `role`, `aria-*`, `data-*` and the like as attributes.
 * Children are nodes or text; null and false are left out.
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Replace what an element holds, if that is something else: a selection, or a reader's place, survives. */
export function fill(element, content) {
  const nodes = [content].flat();
  const text = nodes.map((node) => node.textContent ?? node).join("");
  if (element.textContent !== text) element.replaceChildren(...nodes);
}

/** A mark with its word: what is shown is never told by colour or shape alone. */
export function verdict(ok, word) {
  const kind = ok === true ? "good" : ok === false ? "bad" : "open";
  const sign = { good: "✓", bad: "✗", open: "–" }[kind];
  return make("span", { class: `verdict ${kind}` }, make("span", { "aria-hidden": "true" }, sign), ` ${word}`);
}

/** A list of names and values, without those whose value is null. */
export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  const rows = known.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  return make("dl", { class: "facts" }, ...rows);
}

/** Say something to a screen reader when it has finished its sentence. */
export function announce(text) {
  byId("status").textContent = text;
}

/** Show a problem that concerns the whole page, or none. */
export function alertAll(text) {
  const box = byId("alert");
  if (box.textContent !== text) box.replaceChildren(...(text ? [make("p", { class: "notice bad" }, text)] : []));
}

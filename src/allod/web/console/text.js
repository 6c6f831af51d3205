// A model's text on the page: as text, always. Fenced code is set apart; nothing else is read into it.

import { make } from "./dom.js";

const FENCE = /^ {0,3}```+[^`\n]*$/;

/** The parts of `text`, in order: {code: boolean, text}. A fence that is not closed runs to the end. */
export function parts(text) {
  const found = [];
  let lines = [];
  let code = false;
  const close = () => {
    const inner = lines.join("\n");
    const shown = code ? inner : inner.replace(/^\n+|\s+$/g, "");
    if (shown) found.push({ code, text: shown });
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (FENCE.test(line)) {
      close();
      code = !code;
    } else {
      lines.push(line);
    }
  }
  close();
  return found;
}

/** Nodes that show `text` with its line breaks. Long lines of code scroll, by keyboard too. */
export function textNodes(text) {
  return parts(text).map((part) =>
    part.code
      ? make("pre", { tabIndex: 0, role: "group", "aria-label": "Code" }, make("code", {}, part.text))
      : make("p", {}, part.text),
  );
}

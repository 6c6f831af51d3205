// A rule of the policy, as the page of the policy and the answer to why show it.

import { make, verdict } from "./dom.js";

/** One rule: its reason beside its text. */
export function ruleItem({ name, effect, reason, source }) {
  const permits = effect === "permit";
  return make(
    "li",
    { class: "rule" },
    make(
      "div",
      {},
      make("p", {}, verdict(permits, permits ? "Permits" : "Forbids")),
      make("p", { class: "reason" }, reason),
      make("p", { class: "hint" }, "Called ", make("code", {}, name)),
    ),
    make(
      "pre",
      { tabIndex: 0, role: "group", "aria-label": `Text of the rule ${name}` },
      make("code", {}, bare(source)),
    ),
  );
}

/** A rule's text without the name and reason that stand beside it. */
const bare = (source) => source.replace(/^(@(id|reason)\("(\\.|[^"\\])*"\)\s*)+/, "");

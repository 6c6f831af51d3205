// In plain words: what a receipt states, what its evidence shows, and what it does not.

import { facts, make } from "./dom.js";
import { labelWords } from "./words.js";

const ANSWER = "urn:allod:answer:v1";

/** What each step of a verification asks (spec/receipt.md). */
export const STEPS = [
  ["bundle", "The receipt is whole and well formed"],
  ["log", "The log of this gateway signed it"],
  ["witnesses", "The witnesses that the trust policy asks for signed too"],
  ["inclusion", "The entry is in the signed log"],
  ["statement", "The entry is a statement of a known kind"],
  ["opening", "It is about this question and this answer"],
  ["times", "Its times are possible"],
];

/** What stands beside the verdict: label, model, token counts; text or nodes. */
export function summaryOf({ predicate }, usage) {
  const asked = usage?.prompt_tokens ?? predicate.request.tokens;
  const answered = usage?.completion_tokens ?? predicate.answer?.tokens;
  const isKnown = Number.isInteger(asked) && Number.isInteger(answered);
  return [
    make("span", { class: "label" }, labelWords(predicate.policy.label)),
    predicate.model?.name,
    isKnown && `${asked} tokens in, ${answered} out`,
  ].filter(Boolean);
}

/** Everything that a person may want to read of the statement. */
export function statementFacts({ predicate, predicateType }) {
  const { engine, model, policy, seal, site, at, energy, answer } = predicate;
  return facts([
    ["Kind", predicateType === ANSWER ? "answer" : "refusal"],
    ["Model", model && withDigest(model.name, model.digest)],
    ["Engine", engine && withDigest(engine.name, engine.build)],
    ["Replay", engine?.replay],
    ["Seal", seal && withDigest(seal.kind, seal.proof ?? "no evidence")],
    ["Policy", withDigest([policy.decision, ...policy.rules].join(" · "), policy.digest)],
    ["Site", `${site.id}, ${site.jurisdiction}`],
    ["Ended", new Date(at.end_ms).toISOString()],
    ["Finish", answer?.finish],
    ["Energy", energy.millijoules === null ? energy.label : `${energy.millijoules} mJ, ${energy.label}`],
  ]);
}

function withDigest(text, digest) {
  return make("span", {}, `${text} `, make("code", {}, digest));
}

/** What the evidence shows and what not, in words that claim no more. */
export function meaning({ predicateType }, { isWitnessed, hasText, isClosed = false }) {
  const what = `${predicateType === ANSWER ? "answered" : "refused"} ${isClosed ? "one" : "this"} question`;
  const how = predicateType === ANSWER && hasText ? " with this answer" : "";
  const when = isWitnessed ? "Before the time its witnesses state, the" : "The";
  const who = isWitnessed
    ? ""
    : "It is logged, not witnessed: the time is by the operator’s clock, and no independent party has signed it. ";
  return [
    make(
      "p",
      {},
      make("strong", {}, "What this proves. "),
      `${when} operator irrevocably committed to having ${what}${how}, naming this model, engine, policy and site. `,
      "Changing, dropping, reordering or back-dating the entry is detectable by anyone who holds a later tree head.",
    ),
    make(
      "p",
      {},
      make("strong", {}, "What it does not prove. "),
      `${who}It does not prove that data was not copied, that an unlogged answer never existed, or which model ran: `,
      "only a replay of the answer can show that. It says nothing about whether the answer is true.",
    ),
    make(
      "p",
      {},
      make("strong", {}, "Whom this check relies on. "),
      "The trust file and the code of this page came from this gateway. To rely on neither, download the receipt and run ",
      make("code", {}, "allod verify FILE --trust FILE"),
      " with a trust file that reached you another way.",
    ),
  ];
}

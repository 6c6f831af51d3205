// The seal page: what the kernel says of the engine's process.

import { announce, byId, facts, make, verdict } from "./dom.js";

const COLUMNS = ["What", "Read from the kernel", "Must be", "Result"];

/** Shows each reading of the seal; the newest one only. */
export class SealPage {
  #shown = "";
  #said = "";

  /** Show `seal`, as the gateway described it, or {error} where it could not be read. */
  show(seal) {
    const text = JSON.stringify(seal);
    if (text !== this.#shown) {
      byId("seal").replaceChildren(...sealNodes(seal));
      this.#shown = text; // an unchanged table keeps the reader's place
    }
    const clock = byId("seal-clock");
    if (clock) clock.textContent = `Read at ${new Date().toLocaleTimeString("en-GB")}`;
    const said = isSealed(seal) ? "The engine is sealed." : "Warning: the engine is not known to be sealed.";
    if (said !== this.#said) announce(said);
    this.#said = said;
  }

  /** Forget what was shown. */
  clear() {
    this.#shown = this.#said = "";
    byId("seal").replaceChildren(make("p", { class: "hint" }, "Reading the seal…"));
  }
}

/** Sealed means, of every replica: the kind says so, nothing is missing, and no row is wrong. */
export const isSealed = (seal) => [seal, ...(seal.replicas ?? [])].every(isWhole);

function isWhole(seal) {
  return seal.kind === "sealed" && !seal.missing?.length && !!seal.rows?.length && seal.rows.every((row) => row.ok);
}

/** The first replica's seal, or that of one that is not sealed. */
function sealNodes(found) {
  if (found.error) return [warning("The seal is not known", [`It could not be read: ${found.error}`])];
  const seal = found.replicas?.find((each) => !isWhole(each)) ?? found;
  const head = isSealed(seal)
    ? make("p", { class: "notice good" }, verdict(true, "Sealed: every wall stands, as read from the kernel."))
    : warning("This engine is not sealed", reasons(seal));
  const rows = seal.rows?.length ? sealTable(seal.rows) : make("p", {}, "The kernel was not asked: there are no rows.");
  return [head, rows, engineFacts(seal), others(seal, found.replicas ?? []), ...remarks()];
}

function warning(title, lines) {
  return make(
    "div",
    { class: "notice bad", role: "group", "aria-labelledby": "seal-warning" },
    make("h2", { id: "seal-warning" }, verdict(false, title)),
    ...lines.map((line) => make("p", {}, line)),
  );
}

function reasons(seal) {
  const wrong = (seal.rows ?? []).filter((row) => !row.ok).map((row) => row.name);
  return [
    "The process that holds the model may be able to reach the network or other data. Do not use it for anything real.",
    `Seal in force: ${seal.kind}.`,
    seal.missing?.length ? `Missing: ${seal.missing.join(", ")}.` : "",
    wrong.length ? `Not as it must be: ${wrong.join(", ")}.` : "",
  ].filter(Boolean);
}

// Roles are written out because narrow screens lay the rows out as blocks, which would otherwise end the table.
function sealTable(rows) {
  const cell = (name, ...content) => make("td", { role: "cell", "data-name": name }, ...content);
  const head = COLUMNS.map((name) => make("th", { scope: "col", role: "columnheader" }, name));
  const body = rows.map((row) =>
    make(
      "tr",
      { role: "row" },
      make("th", { scope: "row", role: "rowheader" }, row.name),
      cell(COLUMNS[1], String(row.value)),
      cell(COLUMNS[2], String(row.expected)),
      cell(COLUMNS[3], verdict(!!row.ok, row.ok ? "as it must be" : "wrong")),
    ),
  );
  return make(
    "table",
    { role: "table", class: "rows" },
    make("caption", {}, "The engine’s process ", make("span", { id: "seal-clock" })),
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...head)),
    make("tbody", { role: "rowgroup" }, ...body),
  );
}

function engineFacts({ engine, proof, kind }) {
  return facts([
    ["Engine", engine?.name],
    ["Process", engine?.pid ? String(engine.pid) : "none of its own"],
    ["Started", engine?.started_ms ? new Date(engine.started_ms).toLocaleString("en-GB") : null],
    ["Seal", kind],
    ["Evidence", proof],
  ]);
}

/** Evidence of the other replicas, each by its process. */
function others(seal, replicas) {
  return facts(replicas.filter(({ pid }) => pid !== seal.engine?.pid).map(({ pid, proof }) => [`Process ${pid}`, proof]));
}

function remarks() {
  return [
    make(
      "p",
      { class: "hint" },
      "The evidence’s digest is written into every receipt. To try the walls rather than read them, run ",
      make("code", {}, "allod seal test"),
      ": it attempts each known escape and reports which got out.",
    ),
  ];
}

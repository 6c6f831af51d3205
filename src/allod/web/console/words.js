// Figures, times and the like in words.

import { make } from "./dom.js";

const LIST = new Intl.ListFormat("en-GB", { type: "conjunction" });

export const count = (number) => number.toLocaleString("en-GB");

/** `1 answer`, `2 answers`. */
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** `a, b and c`. */
export const listed = (words) => LIST.format(words);

/** `34 %`; what is little is not nothing, and what is nearly all is not all. */
export function percent(part) {
  if (part > 0 && part < 0.01) return "under 1 %";
  return `${part < 1 ? Math.min(99, Math.round(part * 100)) : Math.round(part * 100)} %`;
}

/** `850 ms`, `12.4 s`, `3 min 20 s`, `2 h 5 min`. */
export function duration(ms) {
  if (ms < 1000) return `${ms} ms`;
  const s = Math.round(ms / 1000);
  if (s < 60) return `${(ms / 1000).toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${count(Math.floor(s / 3600))} h ${Math.floor((s % 3600) / 60)} min`;
}

/** Millionths of a currency as an amount of it. */
export const money = (micros, currency) =>
  new Intl.NumberFormat("en-GB", {
    style: "currency",
    currency,
    maximumFractionDigits: micros % 10_000 ? 4 : 2,
  }).format(micros / 1e6);

/** A time as people here write it; machines read it in the element's `datetime`. */
export function time(ms) {
  const moment = new Date(ms);
  const text = moment.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" });
  return make("time", { dateTime: moment.toISOString() }, text);
}

/** The label of a receipt, as people write it: OFFICIAL, OFFICIAL-SENSITIVE, SECRET, ... */
export function labelWords({ tier, markings }) {
  const isSensitive = tier === "OFFICIAL" && markings.includes("SENSITIVE");
  const others = markings.filter((marking) => marking !== "SENSITIVE" || !isSensitive);
  return [isSensitive ? "OFFICIAL-SENSITIVE" : tier, ...others].join(" · ");
}

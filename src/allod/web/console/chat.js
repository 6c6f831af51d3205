// The conversation: in memory, streamed, stoppable; each answer with its receipt below it.

import { GatewayError } from "./api.js";
import { announce, byId, make } from "./dom.js";
import { Receipt, answerText } from "./receipt.js";
import { textNodes } from "./text.js";

export const INVENTS = "This small model invents answers: this shows that everything works; it is not information.";
const SPOKEN_CHARS = 600;

export class Chat {
  #gateway;
  #model;
  #messages = [];
  #running = null;

  /** `onDenied` is called when the gateway no longer takes the key. */
  constructor({ onDenied }) {
    this.onDenied = onDenied;
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    byId("question").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("ask").requestSubmit();
    });
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
    byId("stop").addEventListener("click", () => this.stop());
    byId("fresh").addEventListener("click", () => this.clear());
  }

  /** Talk to `model` through `gateway`, from an empty conversation. */
  open(gateway, model) {
    this.#gateway = gateway;
    this.#model = model;
    this.clear();
  }

  stop() {
    this.#running?.abort();
  }

  /** Forget the conversation and be ready for a question. */
  clear() {
    this.stop();
    this.#running = null;
    this.#messages = [];
    byId("turns").replaceChildren();
    this.#showState();
    byId("question").focus({ preventScroll: true });
  }

  async #ask() {
    const question = byId("question").value.trim();
    if (!question || this.#running) return;
    const running = (this.#running = new AbortController());
    const messages = [...this.#messages, { role: "user", content: question }];
    const body = JSON.stringify({
      model: this.#model.id,
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    const turn = new Turn(question, { model: this.#model.id, isInformative: this.#isInformative() });
    byId("turns").append(turn.question, turn.answer);
    byId("question").value = "";
    this.#showState();
    announce("Answering.");
    const said = await this.#answer(turn, body, running.signal);
    if (this.#running !== running) return; // the conversation was cleared meanwhile
    this.#running = null;
    if (turn.text) this.#messages = [...messages, { role: "assistant", content: turn.text }];
    else if (!byId("question").value) byId("question").value = question;
    this.#showState();
    announce(said);
  }

  /** Run one turn to its end, whichever that is. Resolves to what a screen reader should say. */
  async #answer(turn, body, signal) {
    let id = null;
    try {
      const on = { start: (receipt) => (id = receipt), text: (piece) => turn.add(piece) };
      const usage = await this.#gateway.chat(body, { signal, on });
      turn.finish();
      if (!id) return turn.fail("The gateway gave no receipt for this answer.");
      const texts = { request: body, answer: answerText(turn.text) };
      return `${await this.#attach(turn, id, texts, usage)} ${turn.spoken()}`;
    } catch (error) {
      turn.finish();
      if (error.name === "AbortError") {
        if (id) this.#attach(turn, id, { request: body });
        return turn.fail("Stopped. This is not a whole answer.", "open");
      }
      if (!(error instanceof GatewayError)) throw error;
      if (error.status === 401) this.onDenied(error.message);
      const receipt = id ?? error.receipt;
      if (receipt) this.#attach(turn, receipt, { request: body });
      return turn.fail(error.message);
    }
  }

  /** Verification starts by itself only after a whole answer: the receipt of a broken one may still be under way. */
  async #attach(turn, id, texts, usage) {
    const receipt = new Receipt(this.#gateway, id, texts);
    turn.answer.append(receipt.element);
    keepInView();
    return texts.answer === undefined ? "" : receipt.verify(usage);
  }

  #isInformative() {
    return this.#model.allod?.informative !== false;
  }

  #showState() {
    const isRunning = this.#running !== null;
    byId("stop").hidden = !isRunning;
    byId("send").hidden = isRunning;
    byId("turns").setAttribute("aria-busy", String(isRunning));
    byId("empty").hidden = byId("turns").childElementCount > 0;
    byId("fresh").disabled = byId("turns").childElementCount === 0;
  }
}

/** A question and its answer on the page. */
class Turn {
  text = "";
  #live = document.createTextNode("");
  #body = make("div", { class: "text live" }, this.#live);

  constructor(question, { model, isInformative }) {
    this.question = make(
      "li",
      { class: "turn asked" },
      make("h2", {}, "You"),
      make("div", { class: "text" }, ...textNodes(question)),
    );
    this.answer = make(
      "li",
      { class: "turn answered waiting" },
      make("h2", {}, `Answer by ${model}`),
      this.#body,
      isInformative ? null : make("p", { class: "warn" }, INVENTS),
    );
  }

  add(piece) {
    const wasAtEnd = isAtEnd();
    this.answer.classList.remove("waiting");
    this.text += piece;
    this.#live.appendData(piece);
    if (wasAtEnd) keepInView();
  }

  finish() {
    const wasAtEnd = isAtEnd();
    this.answer.classList.remove("waiting");
    this.#body.classList.remove("live");
    this.#body.replaceChildren(...textNodes(this.text));
    if (wasAtEnd) keepInView();
  }

  fail(message, kind = "bad") {
    this.#body.after(make("p", { class: `notice ${kind}` }, message));
    return message;
  }

  spoken() {
    const isLong = this.text.length > SPOKEN_CHARS;
    return `Answer: ${isLong ? `${this.text.slice(0, SPOKEN_CHARS)} … and more` : this.text}`;
  }
}

function isAtEnd() {
  const page = document.documentElement;
  return page.scrollHeight - page.scrollTop - page.clientHeight < 160;
}

function keepInView() {
  document.documentElement.scrollTop = document.documentElement.scrollHeight;
}

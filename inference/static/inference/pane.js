// One engine and one conversation with it. Two of them stand side by side to compare.

import { pieces, request } from "./chat.js";
import { Measure } from "./measure.js";
import { PortalError } from "./portal.js";
import { Turn } from "./turn.js";

export class Pane {
  // `settings()` gives what is asked for; `tell(text)` says something; `changed()` is called after each change.
  constructor(template, portal, { settings, tell, changed }) {
    Object.assign(this, { portal, settings, tell, changed });
    this.node = template.content.firstElementChild.cloneNode(true);
    this.place = this.node.querySelector("[data-turns]");
    this.select = this.node.querySelector("[data-engine]");
    this.actions = {
      again: (turn) => this.ask(turn.prompt, this.turns.indexOf(turn)),
      edited: (turn, prompt) => this.ask(prompt, this.turns.indexOf(turn)),
    };
    this.clear();
  }

  // A new conversation.
  clear() {
    this.stop();
    this.talk = { id: null, stored: 0 }; // its id once something of it is stored, and how many turns are
    this.turns = []; // those that have an answer
    this.saved = Promise.resolve(); // one turn is stored after the other
    this.place.replaceChildren();
  }

  get conversation() {
    return this.talk.id;
  }

  get busy() {
    return Boolean(this.aborting);
  }

  get engine() {
    const option = this.select.selectedOptions[0];
    return option && { name: option.value, model: option.dataset.model, chat: option.dataset.chat === "yes" };
  }

  stop() {
    this.aborting?.abort();
  }

  async open(id) {
    const { messages } = await this.portal.call("GET", `/api/v1/conversations/${id}`);
    this.clear();
    this.talk.id = id;
    // As the portal counts turns: a message without its counterpart is in none.
    for (let at = 0; at + 1 < messages.length; at += 1) {
      if (messages[at].role === "user" && messages[at + 1].role === "assistant") {
        this.turns.push(Turn.whole(messages[at].content, messages[at + 1].content, this.actions));
      }
    }
    this.talk.stored = this.turns.length;
    this.place.replaceChildren(...this.turns.map((turn) => turn.node));
    this.changed();
  }

  // Goes on from where another pane is, in a conversation of its own.
  copy(other) {
    this.clear();
    this.turns = other.turns.map(({ prompt, answer }) => Turn.whole(prompt, answer, this.actions));
    this.place.replaceChildren(...this.turns.map((turn) => turn.node));
  }

  // Asks after the first `keep` turns; the others are replaced once there is an answer. False: it came to nothing.
  async ask(prompt, keep = this.turns.length) {
    const engine = this.engine;
    if (this.busy || keep < 0 || !engine) return false;
    const replaced = this.turns.slice(keep);
    for (const old of replaced) old.node.remove();
    this.place.querySelectorAll(".failed").forEach((node) => node.remove());
    const turn = new Turn(prompt, this.actions);
    this.place.append(turn.node);
    const aborting = (this.aborting = new AbortController());
    this.changed();
    turn.begin();
    const problem = await this.#answer(engine, turn, keep, aborting.signal);
    if (aborting === this.aborting) this.aborting = null;
    const answer = turn.end();
    if (!turn.node.isConnected) return false; // another conversation is here by now
    if (problem) turn.fail(problem);
    if (answer.trim()) {
      this.turns = [...this.turns.slice(0, keep), turn];
      this.changed();
      const { talk, turns } = this;
      await (this.saved = this.saved.then(() => this.#store(talk, turns, keep)));
    } else {
      this.#giveUp(turn, replaced, problem);
    }
    this.changed();
    return Boolean(answer.trim());
  }

  // What went wrong, or "". An answer that was stopped is one.
  async #answer(engine, turn, keep, signal) {
    const measure = new Measure();
    let history = this.turns.slice(0, keep);
    let left = 0;
    try {
      const settings = this.settings();
      await this.portal.ready(); // a token is no part of how long the engine takes
      measure.began = measure.now();
      let answer;
      while (!answer) {
        try {
          const { path, body } = request(engine, history, turn.prompt, settings);
          answer = await this.portal.infer(path, body, signal);
        } catch (error) {
          if (error.code !== "context_length_exceeded" || !history.length) throw error;
          left += Math.ceil(history.length / 2);
          history = history.slice(Math.ceil(history.length / 2));
        }
      }
      for await (const piece of pieces(answer)) {
        if (piece.waiting) {
          turn.stats.textContent = `${engine.model} · ${piece.waiting}`;
          measure.began = measure.now(); // nor is its sleep
          continue;
        }
        measure.take(piece);
        if (piece.text) turn.add("text", piece.text);
        if (piece.thought) turn.add("thought", piece.thought);
        turn.stats.textContent = measure.words(engine.model, left);
      }
      return measure.finished ? "" : "The answer ended before its end.";
    } catch (error) {
      if (signal.aborted) measure.stopped = true;
      else if (error instanceof PortalError) return error.message;
      else return "The connection broke in the middle of the answer.";
      return "";
    } finally {
      measure.end();
      turn.stats.textContent = measure.words(engine.model, left);
      this.tell(turn.stats.textContent);
    }
  }

  // No answer came: what it would have replaced stands again, and beside it what went wrong.
  #giveUp(turn, replaced, problem) {
    if (replaced.length) turn.node.before(...replaced.map((old) => old.node));
    turn.node.classList.add("failed");
    turn.footer.remove();
    turn.edit.remove();
    if (!problem) turn.fail("There is no answer. Nothing was kept.");
    if (replaced.length) turn.said.remove();
  }

  // Tells the portal the turns from `keep` on, and what else it has not got yet.
  async #store(talk, turns, keep) {
    try {
      talk.id ??= (await this.portal.call("POST", "/api/v1/conversations", {})).id;
      for (let at = Math.min(talk.stored, keep); at < turns.length; at += 1) {
        const { prompt, answer } = turns[at];
        const said = { prompt: sound(prompt), answer: sound(answer), keep: at, turns: talk.stored };
        await this.portal.call("POST", `/api/v1/conversations/${talk.id}/turns`, said);
        talk.stored = at + 1;
      }
    } catch (error) {
      turns.at(-1).fail(`This answer is not kept: ${error.message}`);
    }
  }
}

// What a database takes: no null character, no half of a character.
function sound(text) {
  return text.replaceAll("\u0000", "").replace(/\p{Surrogate}/gu, "\ufffd");
}

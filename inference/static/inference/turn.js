// A prompt and its answer on the page, with what one can do with them.

import { copyText, element } from "./dom.js";
import { show, Streamed } from "./streamed.js";

export class Turn {
  // `again(turn)`: another answer to the same prompt; `edited(turn, prompt)`: another prompt in its place.
  constructor(prompt, { again, edited }) {
    this.prompt = prompt;
    this.answer = "";
    this.actions = { again, edited };
    this.said = element("div", { class: "said", text: prompt });
    this.edit = button("Edit", () => this.#edit());
    this.thoughts = element("div", { class: "text" });
    this.thinking = element("details", {
      class: "thoughts",
      children: [element("summary", { text: "Thoughts" }), this.thoughts],
    });
    this.thinking.hidden = true;
    this.text = element("div", { class: "text" });
    this.stats = element("span", { class: "stats" });
    this.problem = element("p", { class: "error", role: "alert" });
    this.copy = button("Copy", () => copyText(this.answer, this.copy));
    this.again = button("Regenerate", () => again(this));
    this.footer = element("footer", { children: [this.stats, this.copy, this.again] });
    this.node = element("article", {
      class: "turn",
      children: [
        element("div", { class: "prompt", children: [element("h2", { class: "off-screen", text: "You" }), this.said, this.edit] }),
        element("div", {
          class: "answer",
          children: [element("h2", { class: "off-screen", text: "Answer" }), this.thinking, this.text, this.problem],
        }),
        this.footer,
      ],
    });
  }

  // As it is stored, complete.
  static whole(prompt, answer, actions) {
    const turn = new Turn(prompt, actions);
    turn.answer = answer;
    show(turn.text, answer);
    return turn;
  }

  begin() {
    this.node.classList.add("busy");
    this.text.setAttribute("aria-busy", "true");
    this.streams = { text: new Streamed(this.text), thought: new Streamed(this.thoughts) };
  }

  add(kind, piece) {
    if (kind === "thought") this.thinking.hidden = false;
    this.streams[kind].add(piece);
  }

  // What there is of the answer's text.
  end() {
    this.node.classList.remove("busy");
    this.text.removeAttribute("aria-busy");
    for (const stream of Object.values(this.streams)) stream.end();
    this.answer = this.streams.text.text;
    return this.answer;
  }

  fail(message) {
    this.problem.textContent = message;
  }

  #edit() {
    const area = element("textarea", { "aria-label": "Your prompt", rows: String(Math.min(12, this.prompt.split("\n").length + 1)) });
    area.value = this.prompt;
    const done = () => form.replaceWith(this.said, this.edit);
    const cancel = button("Cancel", () => {
      done();
      this.edit.focus();
    });
    const send = element("button", { text: "Send again" });
    const hint = element("span", { class: "hint", text: "What came after it goes." });
    const form = element("form", { class: "edit", children: [area, element("div", { children: [send, cancel, hint] })] });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!area.value.trim()) return;
      done();
      this.actions.edited(this, area.value);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") cancel.click();
      if (event.key === "Enter" && !event.shiftKey && event.target === area && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.edit.remove();
    this.said.replaceWith(form);
    area.focus();
  }
}

function button(text, act) {
  const made = element("button", { type: "button", class: "quiet", text });
  made.addEventListener("click", act);
  return made;
}

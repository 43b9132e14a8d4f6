// An answer that grows on the page. Blocks that are complete are made once; only the last ones are made anew, and the
// longer that takes, the rarer it is done: also an answer of a megabyte in one line does not stop the page.

import { render } from "./dom.js";
import { blocks, parse, visible } from "./markdown.js";

const REST = 5; // times as long as the last drawing took is left to all else

export class Streamed {
  constructor(place) {
    this.place = place;
    this.text = "";
    this.done = 0; // characters whose blocks stand on the page for good
    this.kept = 0; // … and the number of their nodes
    this.next = 0; // time before which nothing is drawn
    this.timer = null;
  }

  add(piece) {
    this.text += piece;
    if (this.timer === null) this.timer = setTimeout(() => this.draw(), Math.max(16, this.next - performance.now()));
  }

  draw() {
    this.timer = null;
    const began = performance.now();
    const lines = visible(this.text.slice(this.done)).split("\n");
    const found = blocks(lines, 0);
    while (this.place.childNodes.length > this.kept) this.place.lastChild.remove();
    this.place.append(render(found.map((block) => block.node)));
    this.keep(found, lines);
    this.next = performance.now() + REST * (performance.now() - began);
  }

  // All blocks but the last are complete once a whole line of the last is there: it cannot belong to them any more.
  keep(found, lines) {
    const last = found.at(-1);
    if (found.length < 2 || last.line >= lines.length - 1) return;
    let at = this.done;
    for (let line = 0; line < last.line; line += 1) at = this.text.indexOf("\n", at) + 1;
    this.done = at;
    this.kept += found.length - 1;
  }

  // All of it, once more from the beginning.
  end() {
    clearTimeout(this.timer);
    this.timer = null;
    show(this.place, this.text);
  }
}

export function show(place, text) {
  place.replaceChildren(render(parse(text)));
}

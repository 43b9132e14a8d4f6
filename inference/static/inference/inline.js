// Markup within a line or paragraph: code, emphasis, links, line breaks. Pure; see `markdown.js` for the tree.
//
// One pass from left to right. What opens something waits in a list until it is closed, and is text if it never is.

const OPEN = 32; // so many may be open within each other; more are text
const ADDRESS = 2_000; // characters of a link's address
const MATHS = 1_000; // … and of a formula
const PUNCTUATION = /[!-/:-@[-`{-~]/;
const BARE = /https?:\/\/[^\s<>"'`\\|]{1,2000}/y;
const POINTED = /<(https?:\/\/[^\s<>]{1,2000})>/y;
const BREAK = /<br\s{0,2}\/?>/iy;
const SPECIAL = /[\\`*_~[\]!<h$\n]/g;

export function inline(text) {
  return new Scan(text).nodes();
}

// The address if a click may lead there, else null: a web page, with its host to be seen, and nobody's name in it.
export function address(given) {
  if (given.length > ADDRESS || !/^https?:\/\//i.test(given)) return null;
  try {
    const url = new URL(given);
    return url.username || url.password ? null : url.href;
  } catch {
    return null;
  }
}

class Scan {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.out = [];
    this.open = []; // {mark, index}: what has been opened, and where in `out` its characters are
  }

  nodes() {
    while (this.at < this.text.length) {
      SPECIAL.lastIndex = this.at;
      const next = SPECIAL.exec(this.text);
      const end = next ? next.index : this.text.length;
      if (end > this.at) this.say(this.text.slice(this.at, end));
      this.at = end;
      if (next && !this.special(next[0])) this.say(this.text[this.at++]);
    }
    return joined(this.out);
  }

  say(text) {
    this.out.push(text);
  }

  // Deals with what may be more than a character; false: it is not.
  special(one) {
    switch (one) {
      case "\\":
        return this.escape();
      case "`":
        return this.code();
      case "*":
      case "_":
      case "~":
        return this.run(one);
      case "[":
        return this.opens("[", 1);
      case "!":
        return this.text[this.at + 1] === "[" && this.opens("![", 2);
      case "]":
        return this.link();
      case "<":
        return this.pointed();
      case "h":
        return this.bare();
      case "$":
        return this.maths("$$", "$$") || this.dollars();
      default:
        return this.newline();
    }
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "(" || next === "[") {
      if (this.maths(`\\${next}`, next === "(" ? "\\)" : "\\]")) return true;
    }
    if (next === "\n") return this.breaks(2);
    if (next === undefined || !PUNCTUATION.test(next)) return false;
    this.say(next);
    this.at += 2;
    return true;
  }

  newline() {
    this.out.push(["br", {}]);
    this.at += 1;
    return true;
  }

  breaks(length) {
    this.out.push(["br", {}]);
    this.at += length;
    return true;
  }

  code() {
    const run = /`+/y;
    run.lastIndex = this.at;
    const fence = run.exec(this.text)[0];
    const start = this.at + fence.length;
    const end = this.closes(fence, start);
    if (end < 0) {
      this.say(fence);
      this.at = start;
      return true;
    }
    const inner = this.text.slice(start, end).replaceAll("\n", " ");
    const padded = inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") && inner.trim();
    this.out.push(["code", {}, padded ? inner.slice(1, -1) : inner]);
    this.at = end + fence.length;
    return true;
  }

  // Where the run that closes begins, or -1, which each length is only once: no such run is behind it.
  closes(fence, start) {
    const runs = /`+/g;
    runs.lastIndex = start;
    for (let found = runs.exec(this.text); found; found = runs.exec(this.text)) {
      if (found[0].length === fence.length) return found.index;
    }
    return -1;
  }

  // Mathematics, with what encloses it: no character of it means anything here.
  maths(opening, closing) {
    if (!this.text.startsWith(opening, this.at)) return false;
    const within = this.text.slice(this.at, this.at + MATHS);
    const end = within.indexOf(closing, opening.length);
    if (end < 0) return false;
    this.out.push(["span", { class: "maths" }, within.slice(0, end + closing.length)]);
    this.at += end + closing.length;
    return true;
  }

  // $x$, but not "$5 and $6": no space inside the dollars, no digit behind them.
  dollars() {
    const found = /\$[^\s$](?:[^$\n]{0,200}[^\s$\\])?\$(?!\d)/y;
    found.lastIndex = this.at;
    const formula = found.exec(this.text)?.[0];
    if (!formula) return false;
    this.out.push(["span", { class: "maths" }, formula]);
    this.at += formula.length;
    return true;
  }

  run(one) {
    let end = this.at;
    while (this.text[end] === one) end += 1;
    const mark = this.text.slice(this.at, end);
    const wide = one === "~" ? mark.length === 2 : mark.length <= 3;
    const [before, after] = [this.text[this.at - 1] ?? " ", this.text[end] ?? " "];
    this.at = end;
    const within = one === "_" && /[\p{L}\p{N}]/u.test(before) && /[\p{L}\p{N}]/u.test(after);
    if (!wide || within) {
      this.say(mark);
      return true;
    }
    if (!/\s/.test(before) && this.closeEmphasis(mark)) return true;
    if (!/\s/.test(after) && this.open.length < OPEN) this.open.push({ mark, index: this.out.length });
    this.say(mark);
    return true;
  }

  closeEmphasis(mark) {
    const opener = this.open.findLastIndex((each) => each.mark === mark);
    if (opener < 0) return false;
    const { index } = this.open[opener];
    const inner = this.out.splice(index).slice(1);
    this.open.length = opener;
    if (!inner.length) {
      this.say(mark + mark);
      return true;
    }
    const content = joined(inner);
    if (mark === "~~") this.out.push(["del", {}, ...content]);
    else if (mark.length === 1) this.out.push(["em", {}, ...content]);
    else if (mark.length === 2) this.out.push(["strong", {}, ...content]);
    else this.out.push(["strong", {}, ["em", {}, ...content]]);
    return true;
  }

  opens(mark, length) {
    if (this.open.length >= OPEN) return false;
    this.open.push({ mark, index: this.out.length });
    this.say(mark);
    this.at += length;
    return true;
  }

  link() {
    const opener = this.open.findLastIndex((each) => each.mark === "[" || each.mark === "![");
    if (opener < 0) return false;
    const target = this.text[this.at + 1] === "(" ? destination(this.text, this.at + 2) : null;
    const href = target && address(target.address);
    if (!href) {
      this.open.splice(opener, 1);
      return false; // whatever it was, it stays text
    }
    const { mark, index } = this.open[opener];
    const inner = joined(this.out.splice(index).slice(1));
    // No link within a link: what encloses this one is none.
    this.open = this.open.slice(0, opener).filter((each) => each.mark !== "[" && each.mark !== "![");
    this.out.push(anchor(href, inner.length ? inner : [href], mark === "!["));
    this.at = target.end;
    return true;
  }

  pointed() {
    POINTED.lastIndex = BREAK.lastIndex = this.at;
    const line = BREAK.exec(this.text);
    if (line) return this.breaks(line[0].length);
    const found = POINTED.exec(this.text);
    const href = found && address(found[1]);
    if (!href) return false;
    this.out.push(anchor(href, [found[1]]));
    this.at += found[0].length;
    return true;
  }

  bare() {
    BARE.lastIndex = this.at;
    const found = BARE.exec(this.text);
    if (!found || this.open.some((each) => each.mark === "[" && this.text.indexOf("](", this.at) > 0)) return false;
    const text = withoutEnd(found[0]);
    const href = address(text);
    if (!href) return false;
    this.out.push(anchor(href, [text]));
    this.at += text.length;
    return true;
  }
}

// Where a link leads is said beside it, unless its text says it.
function anchor(href, inner, picture = false) {
  const host = new URL(href).host;
  const said = plain(inner).includes(host) && !/\s/.test(plain(inner));
  const where = said ? [] : [["span", { class: "host" }, ` (${picture ? "image at " : ""}${host})`]];
  return ["a", { href }, ...inner, ...where];
}

function plain(nodes) {
  return nodes.map((node) => (typeof node === "string" ? node : plain(node.slice(2)))).join("");
}

// A link's address and title from behind its parenthesis: {address, end}, or null.
function destination(text, start) {
  const pointed = text[start] === "<";
  let depth = 0;
  let at = pointed ? start + 1 : start;
  const from = at;
  for (; at < text.length && at - from <= ADDRESS; at += 1) {
    const one = text[at];
    if (pointed ? one === ">" || one === "\n" : /\s/.test(one)) break;
    if (!pointed && one === "(") depth += 1;
    if (!pointed && one === ")" && depth-- === 0) break;
  }
  const found = text.slice(from, at);
  const rest = /(?:[ \t]{1,5}(?:"[^"\n]{0,300}"|'[^'\n]{0,300}'))?[ \t]{0,5}\)/y;
  rest.lastIndex = pointed ? at + 1 : at;
  return rest.test(text) ? { address: found, end: rest.lastIndex } : null;
}

// A bare address without the punctuation of the sentence that it stands in.
function withoutEnd(found) {
  let text = found.replace(/[.,;:!?*_~\]}]+$/, "");
  while (text.endsWith(")") && text.split(")").length > text.split("(").length) {
    text = text.slice(0, -1).replace(/[.,;:!?*_~\]}]+$/, "");
  }
  return text;
}

// Neighbouring texts as one.
function joined(nodes) {
  const found = [];
  for (const node of nodes) {
    if (typeof node === "string" && typeof found.at(-1) === "string") found[found.length - 1] += node;
    else found.push(node);
  }
  return found;
}

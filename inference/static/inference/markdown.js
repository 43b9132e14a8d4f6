// Markdown of a model as a tree of plain values. What a model says is hostile: the tree holds only what `dom.js` makes
// elements of, HTML is text like any other, and the work grows with the length of the text, whatever it is.
//
//   node = "text" | [tag, {attribute: value}, ...nodes]
//
// Of CommonMark there is what models write. Not there: HTML, entities, indented code, references, images (their address
// is a link: fetching it would tell its host what was said). Mathematics stays as it was written.

import { inline } from "./inline.js";

const LONG = 20_000; // a line with more characters is text without markup
const DEPTH = 8; // of quotes and lists within each other

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}>[ \t]?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const CELL_RULE = /^:?-+:?$/;

// Characters that would not be seen, or would show other text than there is, are shown themselves: control characters,
// what turns the direction of writing, tags that no font has. Lines end with \n; what is half a character is a �.
export function visible(text) {
  return text
    .replace(/\r\n?/g, "\n")
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (one) => String.fromCharCode(0x2400 + one.charCodeAt(0)))
    .replace(/\u007f/g, "\u2421")
    .replace(/[\u0080-\u009f\u202a-\u202e\u2066-\u206f\ufff9-\ufffb]/g, "\ufffd")
    .replace(/[\u{e0000}-\u{e0fff}]/gu, "\ufffd")
    .replace(/\p{Surrogate}/gu, "\ufffd");
}

// The nodes of a whole text.
export function parse(text) {
  return blocks(visible(text).split("\n"), 0).map((block) => block.node);
}

// The blocks of lines: [{node, line}], `line` being the number of their first one.
export function blocks(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [node, next] = block(lines, at, depth);
    found.push({ node, line: at });
    at = next;
  }
  return found;
}

// [node, number of the line after it]
function block(lines, at, depth) {
  const line = lines[at];
  if (line.length > LONG) return [["p", {}, line], at + 1];
  const fence = opensFence(line);
  if (fence) return code(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const title = (heading[2] ?? "").trim().replace(/[ \t]#+$|^#+$/, "").trimEnd();
    return [[`h${heading[1].length}`, {}, ...inline(title)], at + 1];
  }
  if (RULE.test(line)) return [["hr", {}], at + 1];
  if (depth < DEPTH && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEPTH && ITEM.test(line)) return list(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at, depth);
}

function opensFence(line) {
  const found = FENCE.exec(line);
  return found && !(found[1][0] === "`" && found[2].includes("`")) ? found : null;
}

function code(lines, at, [opening, fence, info]) {
  const indent = opening.length - opening.trimStart().length;
  const taken = [];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    const end = line.length < LONG && FENCE.exec(line);
    if (end && end[1][0] === fence[0] && end[1].length >= fence.length && !end[2].trim()) break;
    taken.push(line.slice(Math.min(indent, line.length - line.trimStart().length)));
  }
  const language = info.trim().split(/[\s{,]/)[0].slice(0, 30);
  return [["code-block", { language }, taken.join("\n")], next + 1];
}

function quote(lines, at, depth) {
  const inner = [];
  let next = at;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    if (QUOTE.test(line)) inner.push(line.replace(QUOTE, ""));
    else if (line.trim() && !begins(lines, next) && inner.at(-1)?.trim()) inner.push(line);
    else break;
  }
  return [["blockquote", {}, ...nodes(inner, depth + 1)], next];
}

function list(lines, at, depth) {
  const kind = kindOf(ITEM.exec(lines[at])[2]);
  const first = parseInt(lines[at].trim(), 10);
  const items = [];
  let next = at;
  while (next < lines.length && lines[next].length <= LONG) {
    const found = ITEM.exec(lines[next]);
    if (!found || kindOf(found[2]) !== kind || RULE.test(lines[next])) break;
    const [inner, after] = item(lines, next, found);
    items.push(["li", {}, ...tight(nodes(inner, depth + 1))]);
    next = after;
  }
  const ordered = kind === "." || kind === ")";
  return [[ordered ? "ol" : "ul", ordered && first !== 1 ? { start: String(first) } : {}, ...items], next];
}

// The lines of an item without their indent, and the number of the line after them.
function item(lines, at, [opening, spaces, marker, gap]) {
  const width = spaces.length + marker.length + (gap.length > 4 || !gap ? 1 : gap.length);
  const least = Math.min(width, spaces.length + 2); // models indent what belongs to an item by two or more
  const inner = [lines[at].slice(opening.length)];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    const indent = line.length - line.trimStart().length;
    if (!line.trim()) {
      const following = lines[next + 1];
      if (following === undefined || !following.trim() || !/^[ \t]/.test(following)) {
        if (following === undefined || !ITEM.test(following)) break;
      }
      inner.push("");
    } else if (indent >= least) inner.push(line.slice(Math.min(indent, width)));
    else if (inner.at(-1).trim() && !begins(lines, next)) inner.push(line);
    else break;
  }
  return [inner, next];
}

function kindOf(marker) {
  return marker.at(-1);
}

// An item whose only paragraph is its text has no paragraph of its own.
function tight(inner) {
  return inner.flatMap((node, index) => (index === 0 && node[0] === "p" ? node.slice(2) : [node]));
}

function isTable(lines, at) {
  const [head, rule] = [lines[at], lines[at + 1] ?? ""];
  if (!head.includes("|") || !rule.includes("-") || rule.length > LONG) return false;
  const cells = cellsOf(rule);
  return cells.every((cell) => CELL_RULE.test(cell)) && cells.length === cellsOf(head).length;
}

function table(lines, at) {
  const sides = cellsOf(lines[at + 1]).map(sideOf);
  const row = (line, tag) => {
    const cells = cellsOf(line);
    return ["tr", {}, ...sides.map((side, index) => [tag, side ? { class: side } : {}, ...inline(cells[index] ?? "")])];
  };
  const rows = [];
  let next = at + 2;
  for (; next < lines.length; next += 1) {
    const line = lines[next];
    if (!line.includes("|") || line.length > LONG || begins(lines, next)) break;
    rows.push(row(line, "td"));
  }
  return [["table", {}, ["thead", {}, row(lines[at], "th")], ["tbody", {}, ...rows]], next];
}

function cellsOf(line) {
  const cells = line.trim().replace(/^\|/, "").split(/(?<!\\)\|/);
  if (cells.length > 1 && !cells.at(-1).trim()) cells.pop();
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function sideOf(cell) {
  if (cell.endsWith(":")) return cell.startsWith(":") ? "middle" : "right";
  return "";
}

function paragraph(lines, at) {
  const taken = [lines[at]];
  let next = at + 1;
  while (next < lines.length && lines[next].trim() && !begins(lines, next)) {
    taken.push(lines[next]);
    next += 1;
  }
  const text = taken.map((line) => line.trimStart()).join("\n");
  return [["p", {}, ...(text.length > LONG ? [text] : inline(text.trimEnd()))], next];
}

// Whether a block begins here that ends a paragraph.
function begins(lines, at) {
  const line = lines[at];
  if (line.length > LONG) return true;
  return Boolean(
    opensFence(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line) || isTable(lines, at),
  );
}

function nodes(lines, depth) {
  return blocks(lines, depth).map((found) => found.node);
}

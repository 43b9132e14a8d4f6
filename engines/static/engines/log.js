// The log of an engine: follows it while it is written, and shows only the lines that one looks for.

const text = document.getElementById("log-text");
const search = document.getElementById("log-search");
const follow = document.getElementById("log-follow");
const note = document.getElementById("log-note");
const MOST_LINES = 5000;
let last = null; // the line that is still written
let lines = 0;

search.disabled = follow.disabled = false;
search.addEventListener("input", filter);
follow.addEventListener("change", scroll);

function matches(line) {
  return line.textContent.toLowerCase().includes(search.value.toLowerCase());
}

function filter() {
  let found = 0;
  for (const line of text.children) if (!(line.hidden = !matches(line))) found += 1;
  note.textContent = search.value ? `${found} of ${text.children.length} lines` : "";
  scroll();
}

function scroll() {
  if (follow.checked) text.scrollTop = text.scrollHeight;
}

function begin() {
  text.replaceChildren();
  last = null;
  lines = 0;
}

// A piece may end within a line: the next one goes on there.
function add(piece) {
  const parts = piece.split("\n");
  parts.forEach((part, number) => {
    if (!last || number) {
      last = document.createElement("span");
      text.append(last);
      if (++lines > MOST_LINES) text.firstChild.remove();
    }
    last.append(part);
    if (search.value) last.hidden = !matches(last);
  });
  scroll();
}

const stream = new EventSource(text.dataset.stream);
let begun = false;
stream.addEventListener("message", (event) => {
  if (!begun) begin();
  begun = true;
  add(event.data);
});
stream.addEventListener("gap", () => begun && add("\n[…]\n"));
stream.addEventListener("end", () => stream.close());

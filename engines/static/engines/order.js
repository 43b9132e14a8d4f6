// The form of a start: while one types, whether it fits, and the same order for a terminal.

const form = document.getElementById("order");
const verdict = document.getElementById("verdict");
const NUMBERS = [
  "max_model_len", "tensor_parallel_size", "gpu_memory_utilization", "seed", "lease_hours", "sleep_minutes", "idle_minutes",
];
const WAIT_MS = 600;
let timer = 0;
let asked = null; // the question under way: a newer one ends it

function order() {
  const given = {};
  for (const [name, value] of new FormData(form)) {
    if (!value || name === "csrfmiddlewaretoken") continue;
    given[name] = name === "shared" ? true : NUMBERS.includes(name) ? Number(value) : value;
  }
  return given;
}

// Commands. A token is never written into them: it would end in the shell's history.
const quoted = (text) => (/^[\w./:@-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

function write() {
  const { hugging_face_hub_token: token, ...rest } = order();
  const { model = "facebook/opt-125m", shared, ...flags } = rest;
  const words = ["portal launch", quoted(model)];
  for (const [name, value] of Object.entries(flags)) words.push(`--${name.replaceAll("_", "-")}`, quoted(String(value)));
  if (shared) words.push("--shared");
  if (token) words.push("--hf-token -");
  document.getElementById("as-portal").textContent = words.join(" ");
  const body = JSON.stringify({ model, ...rest, ...(token ? { hugging_face_hub_token: "…" } : {}) });
  document.getElementById("as-curl").textContent =
    `curl ${form.dataset.portal}/api/v1/engines -H "Authorization: Bearer $TOKEN" ` +
    `-H 'Content-Type: application/json' -d ${quoted(body)}`;
}

// Whether it fits. The answer is a piece of the server's own page, escaped by its templates.
async function ask() {
  asked?.abort();
  const mine = (asked = new AbortController());
  if (!form.elements.model.value.trim()) return;
  verdict.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(form.dataset.fit, { method: "POST", body: new FormData(form), signal: mine.signal });
    if (answer.status === 401) return location.reload();
    if (answer.ok) show(await answer.text());
  } catch {
    // A newer question, or the portal is away: what stands there stays.
  } finally {
    if (mine === asked) verdict.removeAttribute("aria-busy");
  }
}

function show(text) {
  verdict.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
  for (const button of verdict.querySelectorAll("[data-field]")) {
    const field = form.elements[button.dataset.field];
    if (!field) button.remove(); // such as the memory of the cache on a CPU, which an operator sets
    else button.addEventListener("click", () => set(field, button.dataset.value));
  }
}

function set(field, value) {
  field.value = value;
  form.dispatchEvent(new Event("input"));
  field.focus();
}

form.addEventListener("input", () => {
  write();
  clearTimeout(timer);
  timer = setTimeout(ask, WAIT_MS);
});
write();
if (form.elements.model.value) ask();

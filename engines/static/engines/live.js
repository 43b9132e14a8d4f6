// Keeps the engines of a page up to date. Server-sent events say that something has changed; where there are none
// (a proxy that holds them back, too many pages) the page asks every few seconds.

const POLL_MS = 4000;
const cards = document.querySelector("[data-cards]");
const state = document.querySelector("[data-state]");
let timer = 0;
let asking = false;

// The parser makes no scripts run, and what comes is the server's own page, escaped by its templates.
async function refresh() {
  if (asking) return;
  asking = true;
  try {
    const answer = await fetch(cards ? cards.dataset.cards : location.pathname, { headers: { Accept: "text/html" } });
    if (answer.status === 401 || answer.redirected) return stop();
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (cards) replace(cards, page.body.childNodes);
    else replaceState(page);
  } catch {
    // The portal is away for a moment; the next look tells.
  } finally {
    asking = false;
  }
}

// Of an engine's page all that is read, and nothing in which somebody may be typing.
function replaceState(page) {
  const fresh = page.querySelector("[data-state]");
  if (!fresh) return stop();
  replace(state, fresh.childNodes);
  for (const part of document.querySelectorAll("[data-part]")) {
    const now = page.querySelector(`[data-part="${part.dataset.part}"]`);
    if (now && now.innerHTML !== part.innerHTML) part.replaceChildren(...now.childNodes);
  }
  if (fresh.dataset.live === "false") location.reload(); // other buttons, the last of its log
}

// Whoever is about to press a button keeps it: the focus is where it was.
function replace(place, nodes) {
  const focused = place.contains(document.activeElement) ? nameOf(document.activeElement) : "";
  place.replaceChildren(...nodes);
  if (!focused) return;
  for (const one of place.querySelectorAll("a, button")) if (nameOf(one) === focused) return one.focus();
}

function nameOf(element) {
  const card = element.closest("[data-engine]");
  return `${card ? card.dataset.engine : ""} ${element.textContent}`;
}

function stop() {
  clearInterval(timer);
  source?.close();
}

function poll() {
  if (!timer) timer = setInterval(() => document.hidden || refresh(), POLL_MS);
}

const source = window.EventSource ? new EventSource("/cards/events") : null;
source?.addEventListener("changed", refresh);
source?.addEventListener("error", () => source.readyState === EventSource.CLOSED && poll());
// The server counts down when it draws a card; between two drawings the page does.
setInterval(() => {
  for (const time of document.querySelectorAll("[data-until]")) time.textContent = left(time.dateTime);
}, 30_000);

function left(until) {
  const minutes = Math.max(0, Math.ceil((Date.parse(until) - Date.now()) / 60_000));
  const [days, hours] = [Math.floor(minutes / 1440), Math.floor((minutes % 1440) / 60)];
  const parts = [[days, "day"], [hours, "hour"], [minutes % 60, "minute"]].filter(([count]) => count);
  return parts.slice(0, 2).map(([count, unit]) => `${count} ${unit}${count === 1 ? "" : "s"}`).join(", ") || "no time";
}

// What is left of a start counts down without any change of its engine.
setInterval(() => document.querySelector(".phases") && !document.hidden && refresh(), POLL_MS);
if (!source) poll();

// The side bar: opens what is chosen there, and marks in it what stands on the page. Its rows are the server's.

export class Conversations {
  // `open(id)` and `gone(id)` are told what was chosen and what was deleted.
  constructor(place, { open, gone }) {
    this.list = place.querySelector("[data-list]");
    this.current = new Set();
    this.list.addEventListener("click", ({ target }) => target.closest("[data-open]") && open(idOf(target)));
    this.list.addEventListener("conversation-gone", ({ detail }) => gone(detail.id));
    this.list.addEventListener("htmx:afterSwap", () => this.mark(this.current));
  }

  // Not while somebody renames or deletes one.
  refresh() {
    if (!this.list.querySelector("details[open]")) this.list.dispatchEvent(new Event("stale"));
  }

  // Marks those that stand on the page.
  mark(ids) {
    this.current = new Set(ids);
    for (const opener of this.list.querySelectorAll("[data-open]")) {
      if (this.current.has(idOf(opener))) opener.setAttribute("aria-current", "true");
      else opener.removeAttribute("aria-current");
    }
  }
}

const idOf = (element) => element.closest("li").dataset.id;

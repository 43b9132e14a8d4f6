// The side bar: one's conversations, searched, opened, renamed, deleted, taken along.

import { element } from "./dom.js";

const AT_ONCE = 30;
const PAUSE_MS = 250; // in typing, before it is searched

export class Conversations {
  // `open(id)` and `gone(id)` are told what was chosen and what was deleted.
  constructor(place, portal, { open, gone, fail }) {
    Object.assign(this, { portal, open, gone, fail });
    this.list = place.querySelector("[data-list]");
    this.more = place.querySelector("[data-more]");
    this.empty = place.querySelector("[data-empty]");
    this.search = place.querySelector("[data-search]");
    this.dialog = document.querySelector("[data-rename]");
    this.current = new Set();
    this.next = null;
    this.asked = 0;
    let pause;
    this.search.addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => this.refresh(), PAUSE_MS);
    });
    this.more.addEventListener("click", () => this.#load(this.next, false));
  }

  refresh() {
    const query = new URLSearchParams({ limit: AT_ONCE });
    if (this.search.value.trim()) query.set("search", this.search.value.trim());
    return this.#load(`/api/v1/conversations?${query}`, true);
  }

  // Marks those that stand on the page.
  mark(ids) {
    this.current = new Set(ids);
    for (const row of this.list.children) {
      const opener = row.querySelector("[data-open]");
      if (this.current.has(row.dataset.id)) opener.setAttribute("aria-current", "true");
      else opener.removeAttribute("aria-current");
    }
  }

  async #load(path, anew) {
    const asked = (this.asked += 1);
    try {
      const page = await this.portal.call("GET", path);
      if (asked !== this.asked) return; // something newer was asked for meanwhile
      if (anew) this.list.replaceChildren();
      this.list.append(...page.results.map((one) => this.#row(one)));
      this.next = page.next && withoutHost(page.next);
      this.more.hidden = !this.next;
      this.empty.hidden = this.list.children.length > 0;
      this.empty.textContent = this.search.value.trim() ? "None with this in its name." : "What you ask is kept here.";
      this.mark(this.current);
    } catch (error) {
      this.fail(error);
    }
  }

  #row({ id, name, number }) {
    const title = name || `Conversation ${number}`;
    const opener = element("button", { type: "button", class: "open", "data-open": "", text: title, title });
    opener.addEventListener("click", () => this.open(id));
    const rename = element("button", { type: "button", text: "Rename" });
    rename.addEventListener("click", () => this.#rename(id, name, row));
    const remove = element("button", { type: "button", class: "danger", text: "Delete" });
    remove.addEventListener("click", () => this.#delete(id, remove, row));
    const files = [["Markdown", "markdown"], ["JSON", "json"]].map(([label, as]) =>
      element("a", { href: `/api/v1/conversations/${id}/export?as=${as}`, download: "", text: `Export as ${label}` }),
    );
    const menu = element("details", {
      class: "menu",
      children: [
        element("summary", { "aria-label": `What to do with ${title}`, text: "⋯" }),
        element("div", { children: [rename, ...files, remove] }),
      ],
    });
    const row = element("li", { "data-id": id, children: [opener, menu] });
    return row;
  }

  #rename(id, name, row) {
    row.querySelector("details").open = false;
    const input = this.dialog.querySelector("input");
    input.value = name;
    this.dialog.returnValue = "";
    this.dialog.showModal();
    input.select();
    const closed = async () => {
      if (this.dialog.returnValue !== "save") return;
      await this.#try(() => this.portal.call("PATCH", `/api/v1/conversations/${id}`, { name: input.value.trim() }));
      await this.refresh();
    };
    this.dialog.addEventListener("close", closed, { once: true });
  }

  // The first click asks, the second deletes.
  async #delete(id, button, row) {
    if (!button.dataset.sure) {
      button.dataset.sure = "yes";
      button.textContent = "Delete for good?";
      return;
    }
    row.querySelector("details").open = false;
    await this.#try(() => this.portal.call("DELETE", `/api/v1/conversations/${id}`));
    this.gone(id);
    await this.refresh();
  }

  async #try(work) {
    try {
      await work();
    } catch (error) {
      if (error.status !== 404) this.fail(error); // what is gone already is gone
    }
  }
}

// The API names whole addresses; behind a proxy the host in them need not be the one of this page.
function withoutHost(address) {
  const url = new URL(address);
  return url.pathname + url.search;
}

// The portal's API as the page calls it. Pages and their API know the browser's session; the inference paths know access
// tokens only, so one that lives for minutes is asked for, and kept in memory alone.

const EARLY_S = 30; // so long before its end a token is not used any more

export const UNREACHABLE = "The portal cannot be reached. Check your connection and try again.";
const STALE = "This page is out of date. Load it again; copy what you wrote before.";

export class PortalError extends Error {
  constructor(message, { status = 0, code = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

export class Portal {
  constructor(csrf) {
    this.csrf = csrf;
    this.token = null; // {text, until}: until in ms of performance.now()
  }

  // JSON of an endpoint of the API; undefined for an empty answer. Throws PortalError.
  async call(method, path, body) {
    const headers = { accept: "application/json", "x-csrftoken": this.csrf };
    if (body !== undefined) headers["content-type"] = "application/json";
    const answer = await this.#fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    if (!answer.ok) throw await refusal(answer);
    return answer.status === 204 ? undefined : answer.json();
  }

  // The answer of an inference path, its body unread. Throws PortalError; a DOMException once `signal` is aborted.
  async infer(path, body, signal) {
    for (const again of [true, false]) {
      await this.ready();
      const authorization = `Bearer ${this.token.text}`;
      const headers = { authorization, "content-type": "application/json" };
      const answer = await this.#fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
      if (answer.ok) return answer;
      if (answer.status !== 401 || !again) throw await refusal(answer);
      this.token = null; // it was ended before its time
    }
  }

  // Sees to it that there is a token. Throws PortalError.
  async ready() {
    if (!this.token || this.token.until < performance.now()) {
      const made = await this.call("POST", "/playground/token");
      this.token = { text: made.access_token, until: performance.now() + 1000 * (made.expires_in - EARLY_S) };
    }
  }

  async #fetch(path, options) {
    try {
      return await fetch(path, { credentials: "same-origin", redirect: "error", ...options });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new PortalError(UNREACHABLE);
    }
  }
}

// What a refused request was told, in OpenAI's shape or in the API's.
async function refusal(answer) {
  const { status } = answer;
  const given = await answer.json().catch(() => (status === 403 ? { detail: STALE } : {}));
  const retryAfter = Number(answer.headers.get("retry-after")) || null;
  const fields = Object.entries(given).map(([name, said]) => `${name}: ${said}`);
  const text = given.error?.message ?? given.detail ?? (fields.join(" ") || `The portal answered with status ${status}.`);
  const message = status === 401 ? "You are logged out. Log in again; what you wrote stays here until you close the page." : text;
  return new PortalError(retryAfter ? `${message} Try again in ${retryAfter} s.` : message, {
    status,
    code: given.error?.code ?? "",
    retryAfter,
  });
}

// A question to an engine and its streamed answer: the request's body, and what comes back.

import { PortalError } from "./portal.js";

// {path, body} for `turns` [{prompt, answer}] and a new prompt. `engine`: {name, chat}; an engine without a chat template
// gets a plain transcript, as from /llm_request. `settings`: those that were given, by the API's names, and `system`.
export function request(engine, turns, prompt, { system, stop, ...sampling }) {
  const stops = stop?.length ? { stop } : {};
  const common = {
    model: engine.name,
    ...sampling,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  if (engine.chat) {
    return { path: "/v1/chat/completions", body: { ...common, ...stops, messages: messages(turns, prompt, system) } };
  }
  const lines = [
    ...(system ? [system, ""] : []),
    ...turns.flatMap((turn) => [`User: ${turn.prompt}`, `Assistant: ${turn.answer}`]),
    `User: ${prompt}`,
    "Assistant:",
  ];
  return { path: "/v1/completions", body: { ...common, stop: ["\nUser:", ...(stop ?? [])], prompt: lines.join("\n") } };
}

export function messages(turns, prompt, system) {
  return [
    ...(system ? [{ role: "system", content: system }] : []),
    ...turns.flatMap((turn) => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: turn.answer },
    ]),
    { role: "user", content: prompt },
  ];
}

// What an answer consists of, as it comes: {text} or {thought} of a piece, {usage}, {finish}; before them {waiting}, what
// an engine does that has to wake first. Throws PortalError.
export async function* pieces(answer) {
  const split = new ThoughtSplitter();
  for await (const { waiting, event } of events(answer.body)) {
    if (waiting) {
      yield { waiting };
      continue;
    }
    if (event.error) throw new PortalError(event.error.message || "The engine failed.", { code: event.error.code });
    const choice = event.choices?.[0];
    const thought = choice?.delta?.reasoning ?? choice?.delta?.reasoning_content;
    if (thought) yield { thought };
    const text = choice?.delta?.content ?? choice?.text;
    if (text) yield* split.add(text);
    if (choice?.finish_reason) yield { finish: choice.finish_reason };
    if (event.usage) yield { usage: event.usage };
  }
  yield* split.end();
}

// Of server-sent events {event}, the JSON of each `data:` line, and {waiting}, the text of each comment.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { done, value } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: {")) yield { event: parsed(line.slice(6)) };
        else if (line.startsWith(": ")) yield { waiting: line.slice(2) };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops reading ends the engine's work
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new PortalError("The engine sent something that cannot be read.");
  }
}

// What a model thinks aloud, where the engine does not tell it from the answer: `<think>…</think>` at the beginning.
class ThoughtSplitter {
  constructor() {
    this.held = ""; // a beginning of which it is not known yet what it is
    this.state = "beginning"; // then "thinking", then "answer"
  }

  *add(text) {
    this.held += text;
    if (this.state === "beginning") {
      const start = this.held.trimStart();
      if (start.startsWith("<think>")) {
        this.state = "thinking";
        this.held = start.slice(7);
      } else if (!"<think>".startsWith(start)) this.state = "answer";
    }
    if (this.state === "thinking") {
      const end = this.held.indexOf("</think>");
      const sure = end < 0 ? Math.max(0, this.held.length - 8) : end;
      if (sure) yield { thought: this.held.slice(0, sure) };
      this.held = end < 0 ? this.held.slice(sure) : this.held.slice(end + 8).trimStart();
      if (end >= 0) this.state = "answer";
    }
    if (this.state === "answer") yield* this.rest("text");
  }

  *end() {
    yield* this.rest(this.state === "thinking" ? "thought" : "text");
  }

  *rest(kind) {
    if (this.held) yield { [kind]: this.held };
    this.held = "";
  }
}

// How long an answer took, and how many tokens it has, by the engine's own counts.

export class Measure {
  constructor(now = () => performance.now()) {
    this.now = now;
    this.began = now();
    this.first = this.last = this.usage = this.finish = null;
    this.stopped = false;
  }

  get finished() {
    return this.finish !== null;
  }

  take({ text, thought, usage, finish }) {
    if (text || thought) {
      this.last = this.now();
      this.first ??= this.last;
    }
    if (usage) this.usage = usage;
    if (finish) this.finish = finish;
  }

  end() {
    this.ended ??= this.now();
  }

  // `left`: turns that the context had no room for.
  words(model, left = 0) {
    const said = [model];
    if (this.usage) said.push(`${grouped(this.usage.prompt_tokens)} + ${grouped(this.usage.completion_tokens)} tokens`);
    if (this.first !== null) said.push(`first after ${seconds(this.first - this.began)}`);
    const speed = this.speed;
    if (speed !== null) said.push(`${speed < 10 ? speed.toFixed(1) : Math.round(speed)} tokens/s`);
    if (this.finish === "length") said.push("cut off at max_tokens or the context's end");
    if (this.stopped) said.push("stopped");
    if (left) said.push(`without the ${left} oldest turns, for which the context is too short`);
    return said.join(" · ");
  }

  // Tokens per second from the first one on; null where that cannot be said.
  get speed() {
    const tokens = (this.usage?.completion_tokens ?? 0) - 1;
    const took = this.last - this.first;
    return this.first !== null && tokens > 0 && took > 0 ? (1000 * tokens) / took : null;
  }
}

function seconds(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function grouped(number) {
  return Number(number).toLocaleString("en");
}

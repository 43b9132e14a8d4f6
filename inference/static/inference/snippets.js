// A conversation's next request as a program. Pure. Texts are quoted so that whoever pastes it gets what the page sends.

const KEY = "sk-…";

export const LANGUAGES = { curl, python, javascript };

// `body`: of a request as `chat.js` makes it, which streams; `path`: where it goes; `url`: of the portal.
export function snippet(language, url, { path, body }) {
  const { stream_options: _, ...rest } = body;
  return LANGUAGES[language](url, path, rest);
}

function curl(url, path, body) {
  const data = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return [
    `curl -N '${url}${path}' \\`,
    `  -H 'Authorization: Bearer ${KEY}' \\`,
    "  -H 'Content-Type: application/json' \\",
    `  -d '${data}'`,
  ].join("\n");
}

function python(url, path, body) {
  const chat = path.endsWith("/chat/completions");
  const { stream: _, ...given } = body;
  const lines = Object.entries(given).map(([name, value]) => `    ${name}=${indented(value)},`);
  return [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${url}/v1", api_key="${KEY}")`,
    `stream = client.${chat ? "chat.completions" : "completions"}.create(`,
    ...lines,
    "    stream=True,",
    ")",
    "for chunk in stream:",
    "    if chunk.choices:",
    `        print(chunk.choices[0].${chat ? 'delta.content or ""' : "text"}, end="", flush=True)`,
  ].join("\n");
}

function javascript(url, path, body) {
  const chat = path.endsWith("/chat/completions");
  const lines = Object.entries(body).map(([name, value]) => `  ${name}: ${JSON.stringify(value, null, 2).replaceAll("\n", "\n  ")},`);
  return [
    'import OpenAI from "openai";',
    "",
    `const client = new OpenAI({ baseURL: "${url}/v1", apiKey: "${KEY}" });`,
    `const stream = await client.${chat ? "chat.completions" : "completions"}.create({`,
    ...lines,
    "});",
    "for await (const chunk of stream) {",
    `  process.stdout.write(chunk.choices[0]?.${chat ? "delta?.content" : "text"} ?? "");`,
    "}",
  ].join("\n");
}

// Texts, numbers, lists and objects are written alike in JSON and in Python.
function indented(value) {
  return JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");
}

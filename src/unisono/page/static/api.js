// The server: its models, and answers as they are streamed. What goes wrong is a Problem, whose message is for people.

import { keep, kept } from "./storage.js";

const KEY = "unisono.key";

export class Problem extends Error {
  constructor(words, { needsKey = false } = {}) {
    super(words);
    this.needsKey = needsKey;
  }
}

export function keepKey(key) {
  keep(KEY, key);
}

async function ask(path, options = {}) {
  const headers = { ...(options.body ? { "content-type": "application/json" } : {}) };
  const key = kept(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  throw await refused(answer);
}

async function refused(answer) {
  const needsKey = answer.status === 401;
  try {
    const { error } = await answer.json();
    return new Problem(`The server refused it: ${error.message}`, { needsKey });
  } catch {
    return new Problem(`The server answered with status ${answer.status}.`, { needsKey });
  }
}

// What is served: by name, its members, lead and method.
export async function models() {
  const { data } = await (await ask("/v1/models")).json();
  return data.map((model) => ({ id: model.id, about: model.unisono }));
}

// Yields {steps, report} as they come. Ends, or throws a Problem: also where the stream breaks off.
export async function* stream(request, signal) {
  const answer = await ask("/v1/chat/completions", { method: "POST", body: JSON.stringify(request), signal });
  let isDone = false;
  try {
    for await (const data of events(answer.body)) {
      isDone ||= data === "[DONE]"; // what is left is the end: a browser keeps a request until all of its answer is read
      if (isDone) continue;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(`The server could not go on: ${chunk.error.message}`);
      for (const report of chunk.unisono?.choices ?? []) yield { steps: report.trace ?? [], report };
    }
  } catch (error) {
    if (isDone) return;
    if (error instanceof Problem || error.name === "AbortError") throw error;
    throw new Problem("The connection to the server was lost.");
  }
  if (!isDone) throw new Problem("The connection to the server was lost.");
}

async function* events(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
  }
}

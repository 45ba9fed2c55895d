import assert from "node:assert";
import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "unisono", baseURL: process.argv[2], apiKey: "none", supportsStructuredOutputs: true, includeUsage: true,
});
const model = provider("duo");
const ask = { model, prompt: "What is the weather in Rome?", temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
const schema = z.object({ city: z.enum(["Sofia", "Rome"]) });
const brief = { ...ask, maxOutputTokens: 12 };
const whole = await generateText(brief);
assert(whole.text, "an empty answer");
const stream = streamText(brief);
assert.equal(await stream.text, whole.text);
assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);

const formed = (await generateText({ ...ask, output: Output.object({ schema }) })).output;
schema.parse(formed);

const weather = { description: "The weather of a city.", inputSchema: schema, execute: async ({ city }) => `rain in ${city}` };
const called = {
  tools: { weather: tool(weather) }, stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
};
const turns = await generateText({ ...ask, ...called, providerOptions: { unisono: { parallel_tool_calls: false } } });
assert.equal(turns.steps.length, 2, `not two turns: ${JSON.stringify(turns.steps[0].content)}`);
const calls = turns.steps[0].toolCalls;
assert(calls.length > 0, "no call");
calls.forEach((call) => schema.parse(call.input));
assert(turns.text, "no text after the result");

const begun = [{ role: "user", content: ask.prompt }, { role: "assistant", content: "In Rome it is" }];
const short = { ...ask, prompt: undefined, messages: begun, maxOutputTokens: 8 };
const continued = await generateText({ ...short, providerOptions: { unisono: { continue_final_message: true } } });
assert(continued.text, "nothing follows a beginning");
assert((await generateText({ ...ask, model: provider.completionModel("duo"), maxOutputTokens: 4 })).text, "no completion");

// Its Responses API sends what it was answered by ids (item_reference).
const sent = [];
const noted = (url, init) => sent.push(init.body) && fetch(url, init);
const responses = createOpenAI({ baseURL: process.argv[2], apiKey: "none", fetch: noted }).responses("duo");
const respond = { ...ask, model: responses };
const shortly = { ...respond, maxOutputTokens: brief.maxOutputTokens };
const first = await generateText({ ...shortly, providerOptions: { openai: { logprobs: 2 } } });
assert.equal(first.text, whole.text);
assert.equal(first.providerMetadata.openai.logprobs[0].length, whole.usage.outputTokens);
const events = streamText(shortly);
assert.equal(await events.text, whole.text);
schema.parse((await generateText({ ...respond, output: Output.object({ schema }) })).output);
const question = { role: "user", content: ask.prompt };
const both = { ...respond, ...called, prompt: undefined, providerOptions: { openai: { parallelToolCalls: false } } };
const acted = await generateText({ ...both, messages: [question] });
assert(acted.steps[0].toolCalls.length === 1 && acted.text, "no call, or no text after its result");
const next = await generateText({ ...both, messages: [question, ...acted.response.messages, question], toolChoice: "none", prepareStep: undefined });
assert(sent.at(-1).includes("item_reference"), "nothing was sent by its id");
assert(next.text, "nothing follows");

const { version } = JSON.parse(readFileSync(new URL("node_modules/ai/package.json", import.meta.url)));
console.log(JSON.stringify({ client: "ai", version, answer: whole.text, formed, calls: calls.map((c) => c.input), text: turns.text }));

import assert from "node:assert";
import { readFileSync } from "node:fs";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const model = createOpenAICompatible({
  name: "unisono", baseURL: process.argv[2], apiKey: "none", supportsStructuredOutputs: true, includeUsage: true,
})("duo");
const ask = { model, prompt: "What is the weather in Rome?", temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
const schema = z.object({ city: z.enum(["Sofia", "Rome"]) });
const whole = await generateText(ask);
assert(whole.text, "an empty answer");
const stream = streamText(ask);
assert.equal(await stream.text, whole.text);
assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);

const formed = (await generateText({ ...ask, output: Output.object({ schema }) })).output;
schema.parse(formed);

const weather = { description: "The weather of a city.", inputSchema: schema, execute: async ({ city }) => `rain in ${city}` };
const turns = await generateText({
  ...ask, tools: { weather: tool(weather) }, stopWhen: stepCountIs(2),
  providerOptions: { unisono: { parallel_tool_calls: false } },
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
});
assert.equal(turns.steps.length, 2, `not two turns: ${JSON.stringify(turns.steps[0].content)}`);
const calls = turns.steps[0].toolCalls;
assert(calls.length > 0, "no call");
calls.forEach((call) => schema.parse(call.input));
assert(turns.text, "no text after the result");

const { version } = JSON.parse(readFileSync(new URL("node_modules/ai/package.json", import.meta.url)));
console.log(JSON.stringify({ client: "ai", version, answer: whole.text, formed, calls: calls.map((c) => c.input), text: turns.text }));

import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const model = createOpenAICompatible({
  name: "unisono", baseURL: process.argv[2], apiKey: "none", supportsStructuredOutputs: true,
})("duo");
const ask = { model, prompt: "What is the weather in Rome?", temperature: 0, maxOutputTokens: 60, maxRetries: 0 };
const schema = z.object({ city: z.enum(["Sofia", "Rome"]) });
const whole = (await generateText(ask)).text;
assert(whole);
assert.equal(await streamText(ask).text, whole);
assert(schema.parse((await generateObject({ ...ask, schema })).object));
const tools = { weather: tool({ description: "The weather of a city.", inputSchema: schema }) };
const { toolCalls } = await generateText({ ...ask, tools, toolChoice: "required" });
assert(toolCalls.length > 0 && schema.parse(toolCalls[0].input));

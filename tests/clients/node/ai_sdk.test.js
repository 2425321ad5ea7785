import assert from "node:assert/strict";
import { test } from "node:test";

import { generateText, streamText, tool } from "ai";
import { z } from "zod";

import { models } from "./clients.js";

// The questions of the workflow, declared as tools that the program does not carry out.
const tools = {
  question: tool({ description: "Asks the user.", inputSchema: z.object({ question: z.string() }) }),
};

const result = (call, value) => ({
  role: "tool",
  content: [
    { type: "tool-result", toolCallId: call.toolCallId, toolName: call.toolName, output: { type: "text", value } },
  ],
});

async function readText(model, prompt) {
  const stream = streamText({ model, prompt, maxRetries: 0 });
  const pieces = [];
  for await (const piece of stream.textStream) pieces.push(piece);
  return [pieces.join(""), await stream.finishReason];
}

async function generatesText(model) {
  const { text, finishReason } = await generateText({ model, prompt: "hi", maxRetries: 0 });
  assert.deepEqual([text, finishReason], ["1: user hi", "stop"]);
}

async function streamsText(model) {
  assert.deepEqual(await readText(model, "count 5"), ["0 1 2 3 4 ", "stop"]);
  const [text] = await readText(model, "think");
  assert.match(text, /a plain thought.*1: user think/s);
}

async function takesTwoTurns(model) {
  const first = { role: "user", content: "one" };
  const one = await generateText({ model, messages: [first], maxRetries: 0 });
  const messages = [first, ...one.response.messages, { role: "user", content: "two" }];
  const two = await generateText({ model, messages, maxRetries: 0 });
  assert.equal(two.text, "1: user one, assistant 1: user one, user two");
}

async function answersAQuestion(model) {
  const first = { role: "user", content: "ask Which city?" };
  const asked = await generateText({ model, tools, messages: [first], maxRetries: 0 });
  const [call] = asked.toolCalls;
  assert.equal(asked.finishReason, "tool-calls");
  assert.deepEqual([call.toolName, call.input, call.invalid], ["question", { question: "Which city?" }, undefined]);
  const messages = [first, ...asked.response.messages, result(call, "Oslo")];
  const answered = await generateText({ model, tools, messages, maxRetries: 0 });
  assert.equal(answered.text, "Which city? Oslo, turn 1");
}

async function answersAQuestionOfAStream(model) {
  const first = { role: "user", content: "ask Which city?" };
  const asked = streamText({ model, tools, messages: [first], maxRetries: 0 });
  await asked.consumeStream();
  const [call] = await asked.toolCalls;
  assert.equal(await asked.finishReason, "tool-calls");
  const messages = [first, ...(await asked.response).messages, result(call, "Oslo")];
  const answered = await generateText({ model, tools, messages, maxRetries: 0 });
  assert.equal(answered.text, "Which city? Oslo, turn 1");
}

test("ai with openai generates text", () => generatesText(models.openai));
test("ai with openai streams text", () => streamsText(models.openai));
test("ai with openai takes two turns with its default settings", () => takesTwoTurns(models.openai));
test("ai with openai shows why a turn failed", () =>
  assert.rejects(generateText({ model: models.openai, prompt: "fail", maxRetries: 0 }), /the kettle is empty/));
test("ai with openai answers a question", () => answersAQuestion(models.openai));
test("ai with openai answers a question of a stream", () => answersAQuestionOfAStream(models.openai));

test("ai with open-responses generates text", () => generatesText(models["open-responses"]));
test("ai with open-responses streams text", () => streamsText(models["open-responses"]));
test("ai with open-responses takes two turns", () => takesTwoTurns(models["open-responses"]));
test("ai with open-responses sees that a turn failed, and in the body why", async () => {
  const model = models["open-responses"];
  const whole = await generateText({ model, prompt: "fail", maxRetries: 0 });
  assert.equal(whole.response.body.status, "failed");
  assert.match(whole.response.body.error.message, /the kettle is empty/);
  assert.deepEqual(await readText(model, "fail"), ["", "error"]);
});
test("ai with open-responses answers a question", () => answersAQuestion(models["open-responses"]));
test("ai with open-responses answers a question of a stream", () =>
  answersAQuestionOfAStream(models["open-responses"]));

test("ai with openai continues a response by its id", async () => {
  const model = models.openai;
  const one = await generateText({ model, prompt: "one", maxRetries: 0 });
  const previousResponseId = one.providerMetadata.openai.responseId;
  const providerOptions = { openai: { previousResponseId } };
  const two = await generateText({ model, prompt: "two", providerOptions, maxRetries: 0 });
  assert.equal(two.text, "2: user two");
});

test("ai with openai answers a question by the id of the response", async () => {
  const model = models.openai;
  const asked = await generateText({ model, tools, prompt: "ask Which city?", maxRetries: 0 });
  const previousResponseId = asked.providerMetadata.openai.responseId;
  const messages = [result(asked.toolCalls[0], "Oslo")];
  const providerOptions = { openai: { previousResponseId } };
  const answered = await generateText({ model, tools, messages, providerOptions, maxRetries: 0 });
  assert.equal(answered.text, "Which city? Oslo, turn 1");
});

test("ai shows the message of a refused request", async () => {
  for (const model of Object.values(models)) {
    const refused = generateText({ model, prompt: "x", temperature: 7, maxRetries: 0 });
    await assert.rejects(refused, (error) => {
      assert.match(error.message, /temperature/);
      return true;
    });
  }
});

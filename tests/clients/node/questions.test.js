import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { all, openai, say } from "./clients.js";

const calls = (response) => response.output.filter((item) => item.type === "function_call");
const output = (call, text) => ({ type: "function_call_output", call_id: call.call_id, output: text });
const answer = (response, ...outputs) =>
  openai.responses.create({ model: "any", previous_response_id: response.id, input: outputs });

test("openai answers a question, and the workflow goes on from where it stood", async () => {
  const asked = await say("ask Which city?");
  assert.equal(asked.status, "completed");
  const [call] = calls(asked);
  assert.deepEqual([call.name, JSON.parse(call.arguments)], ["question", { question: "Which city?" }]);
  assert.equal((await answer(asked, output(call, "Oslo"))).output_text, "Which city? Oslo, turn 1");
});

test("openai reads a question from a stream with the helper", async () => {
  const stream = openai.responses.stream({ model: "any", input: "ask Which city?" });
  const events = await all(stream);
  const done = events.find((event) => event.type === "response.function_call_arguments.done");
  assert.deepEqual(JSON.parse(done.arguments), { question: "Which city?" });
  const [call] = calls(await stream.finalResponse());
  const added = events.find((event) => event.type === "response.output_item.added");
  assert.deepEqual([added.item.id, added.item.call_id], [call.id, call.call_id]);
});

test("openai answers all questions in one request, in any order", async () => {
  const asked = await say("ask Where?|When?");
  const [where, when] = calls(asked);
  const texts = (await answer(asked, output(when, "now"), output(where, "here"))).output_text;
  assert.match(texts, /Where\? here, turn 1/);
  assert.match(texts, /When\? now, turn 1/);
});

test("openai is told which question is not answered, and which answer was not asked for", async () => {
  const asked = await say("ask Where?|When?");
  const [where, when] = calls(asked);
  const refused = (message) => (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "input");
    assert.match(error.message, message);
    return true;
  };
  const missing = refused(new RegExp(`No tool output found for function call ${when.call_id}`));
  await assert.rejects(answer(asked, output(where, "here")), missing);
  const unknown = { type: "function_call_output", call_id: "call_unknown", output: "x" };
  await assert.rejects(answer(asked, unknown), refused(/call_unknown/));
  await assert.rejects(say("never mind", { previous_response_id: asked.id }), refused(/No tool output found/));
});

test("openai answers one question in two ways, which are two branches", async () => {
  const asked = await say("ask Which city?");
  const [call] = calls(asked);
  const oslo = await answer(asked, output(call, "Oslo"));
  const rome = await answer(asked, output(call, [{ type: "input_text", text: "Rome" }]));
  assert.equal(oslo.output_text, "Which city? Oslo, turn 1");
  assert.equal(rome.output_text, "Which city? Rome, turn 1");
  assert.equal((await say("on", { previous_response_id: rome.id })).output_text, "2: user on");
});

test("openai answers with the whole history and no id", async () => {
  const asked = await say("ask Which city?");
  const [call] = calls(asked);
  const input = [{ role: "user", content: "ask Which city?" }, ...asked.output, output(call, "Oslo")];
  assert.equal((await say(input)).output_text, "Which city? Oslo, turn 1");
});

test("openai answers a question in its conversation", async () => {
  const conversation = await openai.conversations.create({});
  const asked = await say("ask Which city?", { conversation: conversation.id });
  const [call] = calls(asked);
  const answered = await say([output(call, "Oslo")], { conversation: conversation.id });
  assert.equal(answered.output_text, "Which city? Oslo, turn 1");
});

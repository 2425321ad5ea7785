import assert from "node:assert/strict";
import { test } from "node:test";

import { generateText, streamText } from "ai";
import OpenAI from "openai";

import { all, models, openai, say } from "../clients.js";

const respond = (response, id, approve) =>
  openai.responses.create({
    model: "any",
    previous_response_id: response.id,
    input: [{ type: "mcp_approval_response", approval_request_id: id, approve }],
  });

test("openai approves what a workflow asks leave for", async () => {
  const asked = await say("refund");
  const [request] = asked.output;
  assert.deepEqual([request.type, request.name], ["mcp_approval_request", "refund"]);
  assert.deepEqual(JSON.parse(request.arguments), { amount: 5 });
  const done = await respond(asked, request.id, true);
  assert.equal(done.output_text, "refunded");
  const [call] = done.output.filter((item) => item.type === "mcp_call");
  assert.deepEqual([call.name, call.approval_request_id], ["refund", request.id]);
});

test("openai denies what a workflow asks leave for", async () => {
  const asked = await say("refund");
  const done = await respond(asked, asked.output[0].id, false);
  assert.deepEqual(
    done.output.map((item) => item.type),
    ["message"],
  );
  assert.equal(done.output_text, "not refunded");
});

test("openai cannot approve what nobody has asked for", async () => {
  const asked = await say("refund");
  await assert.rejects(respond(asked, "mcpr_unknown", true), OpenAI.BadRequestError);
});

test("openai reads an approval from a stream with the helper", async () => {
  const stream = openai.responses.stream({ model: "any", input: "refund" });
  await all(stream);
  assert.equal((await stream.finalResponse()).output[0].type, "mcp_approval_request");
});

const leave = (asked) => asked.find((part) => part.type === "tool-approval-request");
const response = (approvalId, approved) => ({
  role: "tool",
  content: [{ type: "tool-approval-response", approvalId, approved, providerExecuted: true }],
});

for (const [approved, text] of [
  [true, "refunded"],
  [false, "not refunded"],
]) {
  test(`ai with openai answers an approval with ${approved}`, async () => {
    const model = models.openai;
    const first = { role: "user", content: "refund" };
    const asked = await generateText({ model, messages: [first], maxRetries: 0 });
    const messages = [first, ...asked.response.messages, response(leave(asked.content).approvalId, approved)];
    const answered = await generateText({ model, messages, maxRetries: 0 });
    assert.equal(answered.text, text);
  });
}

test("ai with openai answers an approval of a stream by the id of the response", async () => {
  const model = models.openai;
  const first = { role: "user", content: "refund" };
  const asked = streamText({ model, messages: [first], maxRetries: 0 });
  await asked.consumeStream();
  const previousResponseId = (await asked.providerMetadata).openai.responseId;
  const said = [first, ...(await asked.response).messages, response(leave(await asked.content).approvalId, true)];
  const providerOptions = { openai: { previousResponseId } };
  const answered = await generateText({ model, messages: said, providerOptions, maxRetries: 0 });
  assert.equal(answered.text, "refunded");
});

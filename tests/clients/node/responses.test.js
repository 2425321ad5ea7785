import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { all, openai, say } from "./clients.js";

test("openai creates a response and reads its text", async () => {
  const response = await say("hi");
  assert.match(response.id, /^resp_/);
  assert.equal(response.object, "response");
  assert.equal(response.status, "completed");
  assert.equal(response.output_text, "1: user hi");
  assert.equal(response.usage.total_tokens, 0);
});

test("openai gets back the fields it has set", async () => {
  const set = { metadata: { a: "b" }, instructions: "be brief", temperature: 0.5, user: "anna", store: true };
  const response = await say("hi", set);
  for (const [name, value] of Object.entries(set)) assert.deepEqual(response[name], value);
});

test("openai continues a response, and once more from the same one", async () => {
  const first = await say("one");
  const second = await say("two", { previous_response_id: first.id });
  const branch = await say("three", { previous_response_id: first.id });
  const next = await say("four", { previous_response_id: second.id });
  assert.deepEqual(
    [first, second, branch, next].map((response) => response.output_text),
    ["1: user one", "2: user two", "2: user three", "3: user four"],
  );
  assert.equal(next.previous_response_id, second.id);
});

test("openai streams numbered events of which the last shows what is stored", async () => {
  const events = await all(await say("count 5", { stream: true }));
  assert.deepEqual(
    events.map((event) => event.sequence_number),
    events.map((_, index) => index),
  );
  assert.equal(events[0].type, "response.created");
  assert.deepEqual(events[0].response.output, []);
  const last = events.at(-1);
  assert.equal(last.type, "response.completed");
  const text = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta);
  assert.equal(text.join(""), "0 1 2 3 4 ");
  const stored = await openai.responses.retrieve(last.response.id);
  assert.equal(stored.output_text, "0 1 2 3 4 ");
  assert.deepEqual(stored.output, last.response.output);
});

test("openai reads a stream to its end with the helper", async () => {
  const stream = openai.responses.stream({ model: "any", input: "think about it" });
  const types = (await all(stream)).map((event) => event.type);
  const final = await stream.finalResponse();
  assert.ok(types.includes("response.output_text.delta"));
  assert.deepEqual(
    final.output.map((item) => [item.phase, item.content[0].text]),
    [
      ["commentary", "a plain thought"],
      ["final_answer", "1: user think about it"],
    ],
  );
});

test("openai reads a failed stream to its end with the helper", async () => {
  const stream = openai.responses.stream({ model: "any", input: "fail" });
  await all(stream);
  const final = await stream.finalResponse();
  assert.equal(final.status, "failed");
  assert.match(final.error.message, /the kettle is empty/);
});

test("openai gets a failed turn as a response, and continues the one before it", async () => {
  const first = await say("one");
  const failed = await say("fail", { previous_response_id: first.id });
  assert.equal(failed.status, "failed");
  assert.equal(failed.error.code, "server_error");
  assert.match(failed.error.message, /the kettle is empty/);
  assert.equal((await openai.responses.retrieve(failed.id)).status, "failed");
  assert.equal((await say("two", { previous_response_id: first.id })).output_text, "2: user two");
});

test("openai raises an error of the right class with code and param", async () => {
  await assert.rejects(say("x", { previous_response_id: "resp_unknown" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "previous_response_not_found");
    assert.equal(error.param, "previous_response_id");
    assert.match(error.message, /resp_unknown/);
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(say("x", { stream: true, temperature: "hot" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "invalid_type");
    return true;
  });
  await assert.rejects(openai.responses.retrieve("resp_unknown"), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.match(error.message, /resp_unknown/);
    return true;
  });
});

test("openai does not find a response that was not to be stored", async () => {
  const response = await say("hi", { store: false });
  assert.equal(response.output_text, "1: user hi");
  await assert.rejects(openai.responses.retrieve(response.id), OpenAI.NotFoundError);
});

test("openai replays a response as it was streamed, whole and behind an event", async () => {
  const events = await all(await say("count 3", { stream: true }));
  const id = events[0].response.id;
  assert.deepEqual(await all(await openai.responses.retrieve(id, { stream: true })), events);
  const rest = await all(await openai.responses.retrieve(id, { stream: true, starting_after: 3 }));
  assert.deepEqual(rest, events.slice(4));
  const helper = openai.responses.stream({ response_id: id, starting_after: 3 });
  assert.equal((await all(helper))[0].sequence_number, 4);
  assert.equal((await helper.finalResponse()).output_text, "0 1 2 ");
});

test("openai lists the input of a response page by page", async () => {
  const input = Array.from({ length: 45 }, (_, index) => ({ role: "user", content: `text ${index}` }));
  const response = await say(input);
  const listed = await all(openai.responses.inputItems.list(response.id, { order: "asc", limit: 10 }));
  assert.deepEqual(
    listed.map((item) => item.content[0].text),
    input.map((item) => item.content),
  );
  assert.equal(new Set(listed.map((item) => item.id)).size, 45);
  const page = await openai.responses.inputItems.list(response.id);
  assert.deepEqual([page.data.length, page.data[0].content[0].text, page.has_more], [20, "text 44", true]);
});

test("openai deletes a response, and then it is gone", async () => {
  const first = await say("one");
  const second = await say("two", { previous_response_id: first.id });
  await openai.responses.delete(first.id);
  await assert.rejects(openai.responses.retrieve(first.id), OpenAI.NotFoundError);
  await assert.rejects(openai.responses.delete(first.id), OpenAI.NotFoundError);
  await assert.rejects(say("x", { previous_response_id: first.id }), OpenAI.BadRequestError);
  assert.equal((await say("three", { previous_response_id: second.id })).output_text, "3: user three");
});

test("openai finds the workflow among the models", async () => {
  const names = (await all(openai.models.list())).map((model) => model.id);
  assert.ok(names.includes("served"));
});

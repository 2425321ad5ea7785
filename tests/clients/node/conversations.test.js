import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { all, openai, say } from "./clients.js";

const texts = (items) => items.map((item) => [item.role, item.content[0].text]);

test("openai creates, changes and deletes a conversation", async () => {
  const created = await openai.conversations.create({ metadata: { a: "b" } });
  assert.match(created.id, /^conv_/);
  assert.deepEqual(created.metadata, { a: "b" });
  const changed = await openai.conversations.update(created.id, { metadata: { c: "d" } });
  assert.deepEqual(changed.metadata, { c: "d" });
  assert.deepEqual((await openai.conversations.retrieve(created.id)).metadata, { c: "d" });
  assert.equal((await openai.conversations.delete(created.id)).deleted, true);
  await assert.rejects(openai.conversations.retrieve(created.id), OpenAI.NotFoundError);
  await assert.rejects(openai.conversations.delete(created.id), OpenAI.NotFoundError);
});

test("openai takes turns in a conversation, which keeps input and output", async () => {
  const conversation = await openai.conversations.create({});
  const first = await say("one", { conversation: conversation.id });
  const second = await say("two", { conversation: { id: conversation.id } });
  assert.deepEqual([first.output_text, second.output_text], ["1: user one", "2: user two"]);
  assert.deepEqual(second.conversation, { id: conversation.id });
  assert.equal(second.previous_response_id, null);
  assert.deepEqual(texts(await all(openai.conversations.items.list(conversation.id, { order: "asc" }))), [
    ["user", "one"],
    ["assistant", "1: user one"],
    ["user", "two"],
    ["assistant", "2: user two"],
  ]);
});

test("openai adds, lists, reads and deletes items of a conversation", async () => {
  const item = (text) => ({ type: "message", role: "user", content: text });
  const conversation = await openai.conversations.create({ items: [item("a")] });
  const added = await openai.conversations.items.create(conversation.id, { items: [item("b"), item("c")] });
  assert.equal(added.data.length, 2);
  const listed = await all(openai.conversations.items.list(conversation.id, { limit: 1 }));
  assert.deepEqual(texts(listed), [
    ["user", "c"],
    ["user", "b"],
    ["user", "a"],
  ]);
  const where = { conversation_id: conversation.id };
  assert.equal((await openai.conversations.items.retrieve(listed[0].id, where)).content[0].text, "c");
  await openai.conversations.items.delete(listed[0].id, where);
  await assert.rejects(openai.conversations.items.retrieve(listed[0].id, where), OpenAI.NotFoundError);
});

test("openai brings items that were added into the next turn", async () => {
  const added = [{ type: "message", role: "user", content: "added" }];
  const conversation = await openai.conversations.create({ items: added });
  const response = await say("said", { conversation: conversation.id });
  assert.equal(response.output_text, "1: user added, user said");
  const next = await say("more", { conversation: conversation.id });
  assert.equal(next.output_text, "2: user more");
});

test("openai cannot use an unknown conversation, nor one beside a previous response", async () => {
  await assert.rejects(say("x", { conversation: "conv_unknown" }), OpenAI.NotFoundError);
  const conversation = await openai.conversations.create({});
  const first = await say("one");
  await assert.rejects(say("x", { conversation: conversation.id, previous_response_id: first.id }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "mutually_exclusive_parameters");
    return true;
  });
});

test("openai finds a conversation usable after a turn that failed", async () => {
  const conversation = await openai.conversations.create({});
  await say("one", { conversation: conversation.id });
  assert.equal((await say("fail", { conversation: conversation.id })).status, "failed");
  assert.equal((await say("two", { conversation: conversation.id })).output_text, "2: user two");
});

test("openai is told once that a conversation has another turn in flight", async () => {
  const conversation = await openai.conversations.create({});
  const running = await say("wait", { conversation: conversation.id, background: true });
  let requests = 0;
  const counted = (...request) => ((requests += 1), fetch(...request));
  const client = openai.withOptions({ maxRetries: 2, fetch: counted });
  await assert.rejects(client.responses.create({ input: "x", conversation: conversation.id }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.code, "conversation_locked");
    return true;
  });
  assert.equal(requests, 1);
  await openai.responses.cancel(running.id);
  assert.equal((await say("x", { conversation: conversation.id })).output_text, "1: user x");
});

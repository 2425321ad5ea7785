// The background response in RESPONSE_ID: its process was killed in the middle of a message, and another one ended it.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { streamText } from "ai";

import { all, openai } from "../clients.js";

const url = process.env.AGENT_HOST_URL;
const id = process.env.RESPONSE_ID;
const story = await all(await openai.responses.retrieve(id, { stream: true }));

/** The texts that stay: an item that was taken back has none. */
const texts = story.at(-1).response.output.flatMap((item) => item.content.map((part) => part.text));

test("the response was taken up in the middle of a message", () => {
  const taken = story.filter((e) => e.type === "response.output_item.done" && e.item.status === "incomplete");
  assert.equal(taken.length, 1);
  assert.equal(story.filter((event) => event.type === "response.in_progress").length, 1);
  assert.equal(story.at(-1).type, "response.completed");
});

test("openai reads a resumed response with the helper", async () => {
  const stream = openai.responses.stream({ response_id: id });
  const seen = await all(stream);
  assert.deepEqual(
    seen.map((event) => event.sequence_number),
    story.map((event) => event.sequence_number),
  );
  const final = await stream.finalResponse();
  assert.equal(final.output_text, texts.join(""));
  assert.deepEqual(
    final.output.map((item) => [item.id, item.status]),
    story.at(-1).response.output.map((item) => [item.id, item.status]),
  );
});

test("openai comes back to a resumed response at any place", async () => {
  for (let after = 0; after < story.length - 1; after += 1) {
    const rest = await all(await openai.responses.retrieve(id, { stream: true, starting_after: after }));
    assert.deepEqual(rest, story.slice(after + 1));
  }
});

test("openai comes back to a resumed response with the helper", async () => {
  for (let after = 0; after < story.length - 1; after += 1) {
    const stream = openai.responses.stream({ response_id: id, starting_after: after });
    const seen = await all(stream);
    assert.equal(seen.at(-1).type, "response.completed");
    assert.equal((await stream.finalResponse()).output_text, texts.join(""));
  }
});

/** The events of the resumed response, whatever is asked for. */
const resumed = () => fetch(`${url}/responses/${id}?stream=true`);

const models = {
  openai: createOpenAI({ baseURL: url, apiKey: "none", fetch: resumed })("any"),
  "open-responses": createOpenResponses({ name: "host", url, apiKey: "none", fetch: resumed })("any"),
};

for (const [provider, model] of Object.entries(models)) {
  test(`the AI SDK reads a resumed response, ${provider}`, async () => {
    const errors = [];
    const stream = streamText({ model, prompt: "hi", maxRetries: 0, onError: ({ error }) => errors.push(error) });
    const parts = await all(stream.fullStream);
    assert.deepEqual(errors, []);
    assert.deepEqual(
      parts.filter((part) => part.type === "error"),
      [],
    );
    const shown = parts.filter((part) => part.type === "text-delta").map((part) => part.text);
    assert.ok(shown.join("").endsWith(texts.join("")), shown.join("|"));
    assert.equal(await stream.finishReason, "stop");
  });
}

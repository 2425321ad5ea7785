import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { all, ended, openai, say } from "./clients.js";

const background = { background: true };

test("openai polls a background response to its end", async () => {
  const begun = await say("count 20", background);
  assert.ok(["queued", "in_progress"].includes(begun.status));
  assert.deepEqual(begun.output, []);
  const done = await ended(begun);
  assert.equal(done.status, "completed");
  assert.ok(done.output_text.endsWith("18 19 "));
});

test("openai sees that a background response has failed", async () => {
  const failed = await ended(await say("fail", background));
  assert.equal(failed.status, "failed");
  assert.match(failed.error.message, /the kettle is empty/);
});

test("openai leaves a background stream and reads the rest later", async () => {
  const seen = [];
  for await (const event of await say("count 40", { ...background, stream: true })) {
    seen.push(event);
    if (seen.length === 6) break;
  }
  const id = seen[0].response.id;
  const after = seen.at(-1).sequence_number;
  const rest = await all(await openai.responses.retrieve(id, { stream: true, starting_after: after }));
  assert.deepEqual(
    [...seen, ...rest].map((event) => event.sequence_number),
    [...seen, ...rest].map((_, index) => index),
  );
  assert.equal(rest.at(-1).type, "response.completed");
  assert.ok(rest.at(-1).response.output[0].content[0].text.endsWith(" 38 39 "));
  assert.deepEqual(await all(await openai.responses.retrieve(id, { stream: true })), [...seen, ...rest]);
});

test("openai reads a background stream to its end with the helper", async () => {
  const stream = openai.responses.stream({ model: "any", input: "count 5", ...background });
  await all(stream);
  assert.equal((await stream.finalResponse()).output_text, "0 1 2 3 4 ");
});

test("openai leaves a background stream at its first event, and the response ends all the same", async () => {
  let id;
  for await (const event of await say("count 5", { ...background, stream: true })) {
    id = event.response.id;
    break;
  }
  assert.equal((await ended(await openai.responses.retrieve(id))).status, "completed");
});

test("openai cancels a background response, twice to the same effect", async () => {
  const begun = await say("wait", background);
  const cancelled = await openai.responses.cancel(begun.id);
  assert.equal(cancelled.status, "cancelled");
  assert.equal((await openai.responses.cancel(begun.id)).status, "cancelled");
  assert.equal((await openai.responses.retrieve(begun.id)).status, "cancelled");
});

test("openai sees one end of a stream that is cancelled", async () => {
  const events = [];
  for await (const event of await say("wait", { ...background, stream: true })) {
    events.push(event);
    if (event.type === "response.output_text.delta") await openai.responses.cancel(events[0].response.id);
  }
  const ends = events.filter((event) => /completed|incomplete|failed/.test(event.type.split(".")[1]));
  assert.deepEqual(
    ends.map((event) => [event.type, event.response.status]),
    [["response.failed", "cancelled"]],
  );
  assert.equal(events.at(-1), ends[0]);
});

test("openai cannot cancel what is not in the background", async () => {
  const response = await say("hi");
  await assert.rejects(openai.responses.cancel(response.id), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.match(error.message, /Cannot cancel a synchronous response/);
    return true;
  });
  await assert.rejects(openai.responses.cancel("resp_unknown"), OpenAI.NotFoundError);
});

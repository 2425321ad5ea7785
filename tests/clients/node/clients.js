// The clients under test, made as their documentation says, for the server in AGENT_HOST_URL.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenResponses } from "@ai-sdk/open-responses";
import OpenAI from "openai";

const url = process.env.AGENT_HOST_URL;

globalThis.AI_SDK_LOG_WARNINGS = false;

export const openai = new OpenAI({ baseURL: url, apiKey: "none", timeout: 20_000, maxRetries: 0 });

export const say = (input, more = {}) => openai.responses.create({ model: "any", input, ...more });

export const models = {
  openai: createOpenAI({ baseURL: url, apiKey: "none" })("any"),
  "open-responses": createOpenResponses({ name: "agent_host", url: `${url}/responses`, apiKey: "none" })("any"),
};

/** All that an asynchronous iterable gives. */
export async function all(iterable) {
  const found = [];
  for await (const each of iterable) found.push(each);
  return found;
}

/** Asks again until a background response has ended, as the guide of the API shows it. */
export async function ended(response) {
  while (response.status === "queued" || response.status === "in_progress") {
    await new Promise((resolve) => setTimeout(resolve, 20));
    response = await openai.responses.retrieve(response.id);
  }
  return response;
}

// Makes calls with one of the providers' client libraries for Node and tells what the caller sees.
//
// node calls.cjs openai|anthropic reads a list of calls from standard input and writes a list of results, both as JSON;
// sdkcalls_test.go says what is in them.
"use strict";

const { readFileSync } = require("node:fs");

const library = process.argv[2];
const SDK = require(library === "openai" ? "openai" : "@anthropic-ai/sdk");

const apis = {
  chat: async (client, call) => {
    const answer = await client.chat.completions.create({ model: call.model, messages: conversation(call) });
    return told(answer.choices[0].message.content, answer.usage.prompt_tokens, answer.usage.completion_tokens);
  },
  "chat stream": async (client, call) => {
    const pieces = [];
    let usage;
    const stream = await client.chat.completions.create({
      model: call.model, messages: conversation(call), stream: true, stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      pieces.push(...chunk.choices.map((choice) => choice.delta.content).filter(Boolean));
      usage = chunk.usage ?? usage;
    }
    return toldIn(pieces, usage.prompt_tokens, usage.completion_tokens);
  },
  completions: async (client, call) => {
    const answer = await client.completions.create({ model: call.model, prompt: call.text });
    return told(answer.choices[0].text, answer.usage.prompt_tokens, answer.usage.completion_tokens);
  },
  "completions stream": async (client, call) => {
    const pieces = [];
    let usage;
    const stream = await client.completions.create({
      model: call.model, prompt: call.text, stream: true, stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      pieces.push(...chunk.choices.map((choice) => choice.text).filter(Boolean));
      usage = chunk.usage ?? usage;
    }
    return toldIn(pieces, usage.prompt_tokens, usage.completion_tokens);
  },
  responses: async (client, call) => {
    const answer = await client.responses.create({ model: call.model, input: call.text });
    return told(answer.output_text, answer.usage.input_tokens, answer.usage.output_tokens);
  },
  "responses stream": async (client, call) => {
    const pieces = [];
    const stream = client.responses.stream({ model: call.model, input: call.text });
    stream.on("response.output_text.delta", (event) => pieces.push(event.delta));
    const { usage } = await stream.finalResponse();
    return toldIn(pieces, usage.input_tokens, usage.output_tokens);
  },
  embeddings: async (client, call) => {
    const answer = await client.embeddings.create({ model: call.model, input: [call.text, "second"] });
    return { count: answer.data.length, size: answer.data[0].embedding.length, input: answer.usage.prompt_tokens };
  },
  images: async (client, call) =>
    pictures(await client.images.generate({ model: call.model, prompt: call.text, n: 2 })),
  "image edit": async (client, call) =>
    pictures(await client.images.edit({ model: call.model, prompt: call.text, image: await upload("picture.png") })),
  transcription: async (client, call) => {
    const answer = await client.audio.transcriptions.create({ model: call.model, file: await upload("sound.wav") });
    return told(answer.text, answer.usage.input_tokens, answer.usage.output_tokens);
  },
  "transcription stream": async (client, call) => {
    const pieces = [];
    let usage;
    const stream = await client.audio.transcriptions.create({
      model: call.model, file: await upload("sound.wav"), stream: true,
    });
    for await (const event of stream) {
      if (event.type === "transcript.text.delta") pieces.push(event.delta);
      if (event.type === "transcript.text.done") usage = event.usage;
    }
    return toldIn(pieces, usage.input_tokens, usage.output_tokens);
  },
  messages: async (client, call) => {
    const answer = await client.messages.create({ model: call.model, messages: conversation(call), max_tokens: 64 });
    return told(answer.content[0].text, answer.usage.input_tokens, answer.usage.output_tokens);
  },
  "messages stream": async (client, call) => {
    const pieces = [];
    const stream = client.messages.stream({ model: call.model, messages: conversation(call), max_tokens: 64 });
    stream.on("text", (piece) => pieces.push(piece));
    const { usage } = await stream.finalMessage();
    return toldIn(pieces, usage.input_tokens, usage.output_tokens);
  },
  model: async (client, call) => ({ text: (await client.models.retrieve(call.model)).id }),
};

const conversation = (call) => [{ role: "user", content: call.text }];
// The demo upstream takes anything for a file.
const upload = (name) => SDK.toFile(Buffer.alloc(50_000), name);
const pictures = ({ data, usage }) => ({ count: data.length, input: usage.input_tokens, output: usage.output_tokens });
const told = (text, input, output) => ({ text, input, output });
const toldIn = (pieces, input, output) => ({ ...told(pieces.join(""), input, output), pieces: pieces.length });

function clientOf(call) {
  return library === "openai"
    ? new SDK({ baseURL: call.url + "/v1", apiKey: call.key })
    : new SDK({ baseURL: call.url, apiKey: call.key });
}

function errorOf(e) {
  const body = library === "openai" ? e.error : e.error.error;
  return {
    class: e.constructor.name,
    status: e.status,
    code: e.code ?? "",
    type: e.type,
    message: body.message,
    retryAfter: e.headers.get("retry-after") ?? "",
  };
}

async function seen(call) {
  const client = clientOf(call);
  const began = performance.now();
  let result;
  try {
    result = { answer: await apis[call.api](client, call) };
  } catch (e) {
    if (!(e instanceof SDK.APIError) || !e.status) throw e;
    result = { error: errorOf(e) };
  }
  return { ...result, seconds: (performance.now() - began) / 1000 };
}

async function main() {
  const results = [];
  for (const call of JSON.parse(readFileSync(0, "utf8"))) results.push(await seen(call));
  process.stdout.write(JSON.stringify(results));
}

main();

"""Makes calls with one of the providers' client libraries for Python and tells what the caller sees.

python3 calls.py openai|anthropic reads a list of calls from standard input and writes a list of results, both as JSON;
sdkcalls_test.go says what is in them.
"""

import importlib
import json
import sys
import time

library = sys.argv[1]
sdk = importlib.import_module(library)

UPLOAD = bytes(50_000)  # the demo upstream takes anything for a file


def chat(client, call):
    answer = client.chat.completions.create(model=call["model"], messages=conversation(call))
    return told(answer.choices[0].message.content, answer.usage.prompt_tokens, answer.usage.completion_tokens)


def chat_stream(client, call):
    pieces, usage = [], None
    for chunk in client.chat.completions.create(
        model=call["model"], messages=conversation(call), stream=True, stream_options={"include_usage": True}
    ):
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
        usage = chunk.usage or usage
    return told_in(pieces, usage.prompt_tokens, usage.completion_tokens)


def completions(client, call):
    answer = client.completions.create(model=call["model"], prompt=call["text"])
    return told(answer.choices[0].text, answer.usage.prompt_tokens, answer.usage.completion_tokens)


def completions_stream(client, call):
    pieces, usage = [], None
    for chunk in client.completions.create(
        model=call["model"], prompt=call["text"], stream=True, stream_options={"include_usage": True}
    ):
        pieces += [choice.text for choice in chunk.choices if choice.text]
        usage = chunk.usage or usage
    return told_in(pieces, usage.prompt_tokens, usage.completion_tokens)


def responses(client, call):
    answer = client.responses.create(model=call["model"], input=call["text"])
    return told(answer.output_text, answer.usage.input_tokens, answer.usage.output_tokens)


def responses_stream(client, call):
    with client.responses.stream(model=call["model"], input=call["text"]) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        usage = stream.get_final_response().usage
    return told_in(pieces, usage.input_tokens, usage.output_tokens)


def embeddings(client, call):
    answer = client.embeddings.create(model=call["model"], input=[call["text"], "second"])
    return {"count": len(answer.data), "size": len(answer.data[0].embedding), "input": answer.usage.prompt_tokens}


def images(client, call):
    answer = client.images.generate(model=call["model"], prompt=call["text"], n=2)
    return pictures(answer)


def image_edit(client, call):
    answer = client.images.edit(model=call["model"], prompt=call["text"], image=("picture.png", UPLOAD))
    return pictures(answer)


def pictures(answer):
    return {"count": len(answer.data), "input": answer.usage.input_tokens, "output": answer.usage.output_tokens}


def transcription(client, call):
    answer = client.audio.transcriptions.create(model=call["model"], file=("sound.wav", UPLOAD))
    return told(answer.text, answer.usage.input_tokens, answer.usage.output_tokens)


def transcription_stream(client, call):
    pieces, usage = [], None
    for event in client.audio.transcriptions.create(model=call["model"], file=("sound.wav", UPLOAD), stream=True):
        if event.type == "transcript.text.delta":
            pieces.append(event.delta)
        if event.type == "transcript.text.done":
            usage = event.usage
    return told_in(pieces, usage.input_tokens, usage.output_tokens)


def messages(client, call):
    answer = client.messages.create(model=call["model"], messages=conversation(call), max_tokens=64)
    return told(answer.content[0].text, answer.usage.input_tokens, answer.usage.output_tokens)


def messages_stream(client, call):
    with client.messages.stream(model=call["model"], messages=conversation(call), max_tokens=64) as stream:
        pieces = list(stream.text_stream)
        usage = stream.get_final_message().usage
    return told_in(pieces, usage.input_tokens, usage.output_tokens)


def model(client, call):
    return {"text": client.models.retrieve(call["model"]).id}


APIS = {
    "chat": chat,
    "chat stream": chat_stream,
    "completions": completions,
    "completions stream": completions_stream,
    "responses": responses,
    "responses stream": responses_stream,
    "embeddings": embeddings,
    "images": images,
    "image edit": image_edit,
    "transcription": transcription,
    "transcription stream": transcription_stream,
    "messages": messages,
    "messages stream": messages_stream,
    "model": model,
}


def conversation(call):
    return [{"role": "user", "content": call["text"]}]


def told(text, input, output):
    return {"text": text, "input": input, "output": output}


def told_in(pieces, input, output):
    return {**told("".join(pieces), input, output), "pieces": len(pieces)}


def client_of(call):
    if library == "openai":
        return sdk.OpenAI(base_url=call["url"] + "/v1", api_key=call["key"])
    return sdk.Anthropic(base_url=call["url"], api_key=call["key"])


def error_of(e):
    body = e.body if library == "openai" else e.body["error"]
    return {
        "class": type(e).__name__,
        "status": e.status_code,
        "code": getattr(e, "code", None) or "",
        "type": e.type,
        "message": body["message"],
        "retryAfter": e.response.headers.get("retry-after", ""),
    }


def seen(call):
    client, began = client_of(call), time.monotonic()
    try:
        result = {"answer": APIS[call["api"]](client, call)}
    except sdk.APIStatusError as e:
        result = {"error": error_of(e)}
    return {**result, "seconds": time.monotonic() - began}


json.dump([seen(call) for call in json.load(sys.stdin)], sys.stdout)

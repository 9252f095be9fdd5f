// Package demo is a provider of models that has no model: it answers the APIs of OpenAI, Anthropic and Google with words
// from a list, so that a gateway can be tried, and tested, without an account anywhere. It decides what an answer costs and
// remembers what it really sent, so that a test can hold what a gateway charged against it.
//
// # Routes
//
// OpenAI, by POST:
//
//	/v1/chat/completions       JSON, or SSE with "stream": true; usage in a stream only with stream_options.include_usage
//	/v1/completions            JSON or SSE, as chat; each prompt of a list has choices of its own
//	/v1/responses              JSON or SSE
//	/v1/embeddings             JSON
//	/v1/images/generations     JSON; also edits and variations, which take a form
//	/v1/audio/speech           JSON; a second of silence
//	/v1/audio/transcriptions   a form; JSON, text, or SSE with "stream"; also translations
//	/v1/video/queue            JSON; also retrieve, by any method
//	/v1/models                 by GET
//
// Anthropic, by POST:
//
//	/v1/messages               JSON or SSE; max_tokens may be left out, which the real one refuses
//	/v1/messages/count_tokens  JSON
//
// Google, by POST, also below /v1:
//
//	/v1beta/models/MODEL:generateContent        JSON
//	/v1beta/models/MODEL:streamGenerateContent  SSE with ?alt=sse, else a JSON list that comes element by element
//	/v1beta/models/MODEL:countTokens            JSON
//
// Its own, by GET:
//
//	/healthz                   200
//	/demo                      the switches below, as text
//	/demo/requests             the latest requests, as JSON, with digests in place of what may be secret
//
// Any other: 200 and a small JSON object; the body is read and thrown away.
//
// A provider's path means the same with "/api" before it.
//
// # What is a token
//
// Input: the UTF-8 bytes of all texts of the request (messages, contents, instructions, prompt, input; neither roles nor
// names, tools or images), divided by 4 and rounded up, at least 1. A prompt or an input that is tokens already counts as
// it is. An image in a form costs 64 tokens, and sound 10 for each 16,000 bytes begun.
//
// Output: words of three letters, which with the space between them make 4 bytes each, so that output sent back as input
// counts the same. There are 32 of them, or as many as x-demo-tokens says, but never more than the request allows.
// Every token of a stream is one event. An image is one choice; those of dall-e, and speech and video, cost no output.
// Thought (x-demo-reasoning) is output that nobody sees: it counts against the same maximum, and comes first.
//
// What a provider does not report in tokens (dall-e, whisper, speech, video) is remembered in them all the same.
//
// # Switches
//
// Headers of a request; [WithSwitches] sets them for all requests that do not say otherwise. The body is read before
// any of them acts; x-demo-reset, x-demo-status and x-demo-fail-first act before it is understood.
//
//	x-demo-abort: 10            break the connection after so many streamed tokens, 0 to 1000000, or within a JSON body (off: do not)
//	x-demo-cached: 40           report so many of the input tokens, as far as there are, as read from a cache, 0 to 1000000
//	x-demo-credential: on       answer with a digest of each credential that came, in a header of this name (off: do not)
//	x-demo-delay: 500ms         wait before the headers, up to 1h
//	x-demo-fail-first: 1        answer the first so many requests by x-demo-status, or 503, and later ones normally, up to 1000000 (0: do not)
//	x-demo-fail-id: retry-7     let x-demo-fail-first count only the requests that say the same here, at most 128 bytes
//	x-demo-ratelimit: on        send rate limit headers of the provider's own (off: do not)
//	x-demo-reasoning: 30        let each choice take so many tokens of thought before it speaks, 0 to 1000000
//	x-demo-reset: on            reset the connection before the headers (off: do not)
//	x-demo-status: 503          answer with this error, 400 to 599, without usage (200: do not)
//	x-demo-token-delay: 100ms   wait between the tokens of a stream, up to 1h
//	x-demo-tokens: 200          produce so many tokens for each choice, 0 to 1000000
//	x-demo-usage: none          report no usage (full: report it)
package demo

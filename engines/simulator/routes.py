"""The HTTP surface: an ASGI callable with vLLM's paths, statuses and bodies."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from engines.simulator import dialects, named, requests, scoring, tokens, wire
from engines.simulator.answers import Answer
from engines.simulator.engine import Engine, Generation, Receive
from engines.simulator.errors import (
    ENGINE_DEAD,
    ApiError,
    ClientLeft,
    EngineFailure,
    bad_value,
    not_found,
    unauthorized,
    unknown_model,
    wrong_media_type,
    wrong_method,
)
from engines.simulator.exchange import JSON, Exchange, Send
from engines.simulator.generation import answer_instead, generate
from engines.simulator.options import Options
from engines.simulator.sleep import Sleep
from engines.simulator.startup import VERSION

_GUARDED = ("/v1", "/v2", "/inference", "/cohere")


class Application:
    """The ASGI callable of one engine."""

    def __init__(self, options: Options, engine: Engine) -> None:
        self._options = options
        self._engine = engine
        self._routes: dict[str, dict[str, Callable[[Exchange], Awaitable[None]]]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health, "POST": self._health},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._metrics},
            "/v1/models": {"GET": self._models},
            "/tokenize": {"POST": self._tokenize},
            "/detokenize": {"POST": self._detokenize},
        }
        if options.dev_mode:
            self._routes |= Sleep(options, engine).routes
        if options.pooling:
            self._routes["/v1/embeddings"] = {"POST": self._embeddings}
            for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
                self._routes[path] = {"POST": self._rerank}
            for path in ("/score", "/v1/score"):
                self._routes[path] = {"POST": self._score}
        else:
            self._routes["/v1/responses"] = {"POST": self._responses}
            self._routes["/v1/messages"] = {"POST": self._messages}
            self._routes["/v1/messages/count_tokens"] = {"POST": self._count_tokens}
            self._routes["/v1/chat/completions"] = {"POST": self._chat}
            self._routes["/v1/completions"] = {"POST": self._completions}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        path = scope["path"]
        root = self._options.root_path
        if root and path.startswith(f"{root}/"):
            path = path.removeprefix(root)
        exchange = Exchange(scope, receive, send, path, self._options.request_id_headers)
        try:
            await self._dispatch(exchange)
        except ClientLeft:
            pass
        except EngineFailure:
            await self._fail(exchange)
        except ApiError as error:
            await exchange.answer(error.status, wire.to_json(error.body), headers=error.headers)
        if not exchange.started:
            return
        handler = path if path in self._routes else "none"
        self._engine.counters.http[handler, exchange.method, f"{exchange.status // 100}xx"] += 1

    async def _dispatch(self, exchange: Exchange) -> None:
        if exchange.path.startswith(_GUARDED) and not self._may_enter(exchange):
            raise unauthorized()
        methods = self._routes.get(exchange.path)
        if methods is None:
            if exchange.path.rstrip("/") in self._routes:
                await self._redirect_without_slash(exchange)
                return
            raise not_found()
        handler = methods.get(exchange.method)
        if handler is None:
            raise wrong_method(sorted(methods))
        await handler(exchange)

    def _may_enter(self, exchange: Exchange) -> bool:
        if not self._options.api_keys:
            return True
        scheme, _, key = exchange.header(b"authorization").partition(" ")
        given = key.encode("latin-1")
        return scheme.lower() == "bearer" and any(
            hmac.compare_digest(given, known.encode()) for known in self._options.api_keys
        )

    async def _redirect_without_slash(self, exchange: Exchange) -> None:
        target = f"http://{exchange.header(b'host')}{exchange.path.rstrip('/')}".encode("latin-1")
        if exchange.query:
            target += b"?" + exchange.query
        await exchange.answer(307, b"", "", ((b"location", target),))

    async def _fail(self, exchange: Exchange) -> None:
        if exchange.started:
            if exchange.failure:
                await exchange.write(exchange.failure, more=False)
            return
        await exchange.answer(500, wire.to_json(ENGINE_DEAD))

    # What says how it is

    async def _health(self, exchange: Exchange) -> None:
        if self._options.health_hangs:
            while (await exchange.receive())["type"] != "http.disconnect":
                pass
            raise ClientLeft
        await exchange.answer(503 if self._engine.dead else 200, b"", "")

    async def _version(self, exchange: Exchange) -> None:
        await exchange.answer(200, wire.to_json({"version": VERSION}))

    async def _load(self, exchange: Exchange) -> None:
        await exchange.answer(200, wire.to_json({"server_load": 0}))

    async def _models(self, exchange: Exchange) -> None:
        options = self._options
        body = wire.models_body(options.names, options.model, options.max_model_len, options.adapters)
        await exchange.answer(200, wire.to_json(body))

    async def _metrics(self, exchange: Exchange) -> None:
        engine = self._engine
        busy = (len(engine.running), len(engine.waiting), engine.kv_tokens)
        text = engine.counters.render(*busy, engine.sleep_level)
        await exchange.answer(200, text, "text/plain; version=1.0.0; charset=utf-8")

    # Tokens and vectors

    async def _tokenize(self, exchange: Exchange) -> None:
        body = await self._read(exchange)
        if "messages" in body:
            if not self._options.chat_template:
                raise requests.no_chat_template()
            messages = requests.chat_messages(body)
            generation_prompt = requests.boolean(body, "add_generation_prompt", default=True)
            ids = tokens.encode_chat(messages, requests.tools_text(body, self._options), generation_prompt)
        else:
            prompt = requests.text(body, "prompt")
            if prompt is None:
                raise requests.invalid("body.prompt", "missing", "Field required", dict(body))
            ids = tokens.encode(prompt)
        texts = [tokens.decode([one]) for one in ids] if requests.boolean(body, "return_token_strs") else None
        answer = {
            "count": len(ids),
            "max_model_len": self._options.max_model_len,
            "tokens": ids,
            "token_strs": texts,
        }
        await exchange.answer(200, wire.to_json(answer))

    async def _detokenize(self, exchange: Exchange) -> None:
        body = await self._read(exchange)
        ids = body.get("tokens")
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise requests.invalid("body.tokens", "list_type", "Input should be a valid list", ids)
        for one in ids:
            requests.check_token_id(one)
        await exchange.answer(200, wire.to_json({"prompt": tokens.decode(ids)}))

    async def _embeddings(self, exchange: Exchange) -> None:
        body = await self._read(exchange)
        model = self._model(body)
        if body.get("input") is None:
            raise requests.invalid("body.input", "missing", "Field required", dict(body))
        inputs = requests.text_or_ids(body["input"], "input")
        counts = [tokens.count_prompt(one) for one in inputs]
        if max(counts) > self._options.max_model_len:
            raise requests.too_long(max(counts), None, self._options.max_model_len)
        if requests.integer(body, "dimensions") is not None:
            raise bad_value(f'Model "{model}" does not support matryoshka representation.', "dimensions")
        as_base64 = requests.text(body, "encoding_format") == "base64"
        faults = requests.faults_of(body, self._options)
        generation = Generation(sum(counts), [], faults, 0.0, 0.0)
        async with self._engine.present(generation, exchange.receive), self._engine.slot(generation):
            await asyncio.sleep(self._options.first_token_seconds)
            if await answer_instead(exchange, generation):
                return
            texts = [one if isinstance(one, str) else tokens.decode(one) for one in inputs]
            answer = wire.embeddings_body(exchange.request_id, model, texts, sum(counts), as_base64, faults)
            self._engine.counters.prompt_tokens += sum(counts)
            self._engine.counters.success["stop"] += len(inputs)
            await exchange.answer(200, wire.to_json(answer))

    async def _rerank(self, exchange: Exchange) -> None:
        await self._compare(exchange, scoring.read_rerank, scoring.rerank_body)

    async def _score(self, exchange: Exchange) -> None:
        await self._compare(exchange, scoring.read_score, scoring.score_body)

    async def _compare(
        self,
        exchange: Exchange,
        read: Callable[[requests.Body], scoring.Compared],
        write: Callable[[str, str, scoring.Compared], dict[str, Any]],
    ) -> None:
        body = await self._read(exchange)
        model = self._model(body)
        compared = read(body)
        generation = Generation(compared.tokens, [], requests.faults_of(body, self._options), 0.0, 0.0)
        async with self._engine.present(generation, exchange.receive), self._engine.slot(generation):
            await asyncio.sleep(self._options.first_token_seconds)
            if await answer_instead(exchange, generation):
                return
            self._engine.counters.prompt_tokens += compared.tokens
            self._engine.counters.success["stop"] += len(compared.pairs)
            await exchange.answer(200, wire.to_json(write(exchange.request_id, model, compared)))

    # What generates

    async def _chat(self, exchange: Exchange) -> None:
        body = await self._read(exchange)
        model = self._model(body)
        await self._generate(exchange, model, requests.read_chat(body, self._options), chat=True)

    async def _completions(self, exchange: Exchange) -> None:
        body = await self._read(exchange)
        model = self._model(body)
        await self._generate(exchange, model, requests.read_completion(body, self._options), chat=False)

    async def _generate(self, exchange: Exchange, model: str, wanted: requests.Wanted, chat: bool) -> None:
        def formatted(answers: list[Answer]) -> wire.AnswerFormat:
            usage = (wanted.continuous_usage, wanted.include_usage)
            request = (chat, exchange.request_id, model, wanted.counts)
            return wire.AnswerFormat(*request, answers, wanted.faults, *usage)

        await generate(self._options, self._engine, exchange, wanted, formatted)

    async def _responses(self, exchange: Exchange) -> None:
        body = await self._read(exchange)
        model = self._model(body)
        wanted = dialects.read_response(body, self._options)

        def formatted(answers: list[Answer]) -> named.ResponseFormat:
            (answer,) = answers
            most = wanted.sampling.max_tokens
            return named.ResponseFormat(exchange.request_id, model, wanted.prompt_tokens, answer, wanted.faults, most)

        await generate(self._options, self._engine, exchange, wanted, formatted)

    async def _messages(self, exchange: Exchange) -> None:
        try:
            body = await self._read(exchange)
            model = self._model(body)
            wanted = dialects.read_message(body, self._options)
        except ApiError as error:
            raise dialects.refusal(error) from None

        def formatted(answers: list[Answer]) -> named.MessageFormat:
            (answer,) = answers
            return named.MessageFormat(exchange.request_id, model, wanted.prompt_tokens, answer, wanted.faults)

        await generate(self._options, self._engine, exchange, wanted, formatted)

    async def _count_tokens(self, exchange: Exchange) -> None:
        try:
            body = await self._read(exchange)
            self._model(body)
            messages = requests.chat_messages({"messages": dialects.message_chat(body)})
        except ApiError as error:
            raise dialects.refusal(error) from None
        count = tokens.count_prompt(messages, dialects.message_tools(body))
        answer = {"input_tokens": count, "context_management": {"original_input_tokens": count}}
        await exchange.answer(200, wire.to_json(answer))

    # Shared by the above

    async def _read(self, exchange: Exchange) -> requests.Body:
        raw = await exchange.body()
        if exchange.header(b"content-type").lower().split(";")[0].strip() != JSON:
            raise wrong_media_type()
        return requests.parse_json(raw)

    def _model(self, body: requests.Body) -> str:
        """The name to answer with; a request without one means the only model there is."""
        names = self._options.names
        name = requests.text(body, "model")
        if not name:
            return names[0]
        if name not in names and name not in {adapter.name for adapter in self._options.adapters}:
            raise unknown_model(name, ["<path>" if one.startswith("/") else one for one in names])
        return name


async def _live(receive: Receive, send: Send) -> None:
    """The server's own start and end, of which there is nothing to do."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return

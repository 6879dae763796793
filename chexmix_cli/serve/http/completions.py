"""Chat completions: OpenAI's request and answer, whole or as a stream, around the library's reports."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from chexmix_cli.core.text.disclaimer import GENERATED
from chexmix_cli.serve.http.batching import Ticket
from chexmix_cli.serve.http.errors import RefusedError
from chexmix_cli.serve.http.gate import Exchange
from chexmix_cli.serve.http.schemas import ChatRequest, ImagePart
from chexmix_cli.serve.http.service import Piece, Service, decode_settings, pieces
from chexmix_cli.serve.http.verbs import Report

if TYPE_CHECKING:
    from chexmix_cli.library.reports import StudyReport

_UNREAD_TEXT = "the texts of the messages are not read: the model writes reports and takes no instructions"
_STOPS = {"end": "stop", "next_image": "stop", "length": "length", "room": "length"}


@dataclass(frozen=True)
class Completion:
    """One request's reports on their way.

    Attributes:
        service: that writes them.
        request: as asked.
        exchange: its entry in the log.
        tickets: one for each report that differs; at temperature 0 all are the same.
        texts: pieces of the reports, as they are written.
        num_prompt: ids of the prompt.
    """

    service: Service
    request: ChatRequest
    exchange: Exchange
    tickets: list[Ticket]
    texts: asyncio.Queue[Piece]
    num_prompt: int
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def num_choices(self) -> int:
        """Return how many reports are asked for."""
        return self.request.n or 1

    async def whole(self) -> dict[str, Any]:
        """Return the answer of a request without ``stream``."""
        reports = await self._reports()
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": report.text, "refusal": None},
                "logprobs": None,
                "finish_reason": _STOPS[report.report.finish.value],
                "chexmix": self._fields(report),
            }
            for index, report in enumerate(self._each(reports))
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage(reports)}

    async def events(self) -> AsyncGenerator[str]:
        """Yield the server-sent events of a stream; whatever is refused before the first is raised."""
        shown: set[int] = set()
        try:
            async for piece in pieces(self.tickets, self.texts):
                for index in self._indices(piece.choice):
                    if not shown:
                        self.service.metrics.first_text(self.exchange.seconds)
                    if index not in shown:
                        shown.add(index)
                        yield self._event(index, {"role": "assistant", "content": ""})
                    if piece.text:
                        yield self._event(index, {"content": piece.text})
                    elif piece.text is None:
                        yield self._last_event(index, self.tickets[piece.choice].result.result())
            reports = await self._reports()
            if self.request.stream_options is not None and self.request.stream_options.include_usage:
                usage = {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(reports)}
                yield _sse(usage)
        except RefusedError as refused:
            if not shown:
                raise
            self.exchange.code = refused.code
            yield _sse(refused.body())
        finally:
            self.exchange.note_work(self.tickets)
            for ticket in self.tickets:
                ticket.drop()
        yield "data: [DONE]\n\n"

    async def _reports(self) -> list[StudyReport]:
        reports: list[StudyReport] = await self.service.results(self.tickets, self.exchange)
        written = sum(len(report.report.token_ids) for report in reports)
        self.exchange.notes["tokens"] = written
        self.service.metrics.tokens(written)
        return reports

    def _each(self, reports: list[StudyReport]) -> list[StudyReport]:
        """Return the report of each choice."""
        return reports if len(reports) == self.num_choices else reports * self.num_choices

    def _indices(self, ticket: int) -> list[int]:
        """Return the choices that a ticket's report is for."""
        return [ticket] if len(self.tickets) == self.num_choices else list(range(self.num_choices))

    def _fields(self, report: StudyReport) -> dict[str, Any]:
        fields = report.fields()
        has_text = any(isinstance(one.content, str) or _texts(one.content) for one in self.request.messages)
        return {**fields, "notes": [*fields.get("notes", []), _UNREAD_TEXT]} if has_text else fields

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.service.name,
            "system_fingerprint": self.service.served.model.weights.fingerprint,
        }

    def _event(self, index: int, delta: dict[str, Any]) -> str:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        if "role" in delta:
            choice["chexmix"] = {"mark": GENERATED}
        return _sse({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _last_event(self, index: int, report: StudyReport) -> str:
        reason = _STOPS[report.report.finish.value]
        choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}
        return _sse({**self._head("chat.completion.chunk"), "choices": [{**choice, "chexmix": self._fields(report)}]})

    def _usage(self, reports: list[StudyReport]) -> dict[str, int]:
        written = sum(len(report.report.token_ids) for report in self._each(reports))
        return {
            "prompt_tokens": self.num_prompt,
            "completion_tokens": written,
            "total_tokens": self.num_prompt + written,
        }


async def begin(service: Service, request: ChatRequest, exchange: Exchange) -> Completion:
    """Read a request's film and put its reports into the queue.

    Raises:
        RefusedError: if it asks for what there is not, or its film cannot be read.
    """
    settings = service.served.settings
    _require_supported(service, request)
    film = await service.film(_image_of(request), "messages")
    most = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    changes = {"max_new_tokens": most, "temperature": request.temperature, "top_p": request.top_p}
    verb = Report(decode_settings(settings.decode, changes))
    texts: asyncio.Queue[Piece] = asyncio.Queue()
    seed = service.served.seed if request.seed is None else request.seed
    # Greedy reports of one film are the same.
    count = 1 if verb.decode.temperature == 0 else request.n or 1
    tickets = [
        service.submit(verb, film, seed + choice, partial(_put, texts, choice) if request.stream else None)
        for choice in range(count)
    ]
    num_prompt = len(service.served.model.weights.settings.vocabulary.report_prompt([0] * _num_codes(service)))
    return Completion(service, request, exchange, tickets, texts, num_prompt)


def _put(texts: asyncio.Queue[Piece], choice: int, text: str) -> None:
    texts.put_nowait(Piece(choice, text))


def _num_codes(service: Service) -> int:
    return service.served.model.weights.settings.vocabulary.tokens_per_image


def _require_supported(service: Service, request: ChatRequest) -> None:
    if request.model != service.name:
        raise RefusedError("NO_SUCH_MODEL", f"no such model; expected {service.name}", param="model")
    most = service.served.settings.server.max_choices
    if (request.n or 1) > most:
        raise RefusedError(
            "UNSUPPORTED_FIELD", f"n is too large; expected at most {most} (server.max_choices)", param="n"
        )
    for name in request.unsupported():
        message = f"{name} is not supported; leave it out, its effect would be missing in the report"
        raise RefusedError("UNSUPPORTED_FIELD", message, param=name)


def _image_of(request: ChatRequest) -> str:
    """Return the one image of all messages."""
    found = [
        part.image_url.url
        for message in request.messages
        if isinstance(message.content, list)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    if len(found) != 1:
        what = "no image" if not found else f"{len(found)} images"
        code = "SEVERAL_IMAGES" if found else "NO_IMAGE"
        raise RefusedError(code, f"the messages hold {what}; expected one image_url in all of them", param="messages")
    return found[0]


def _texts(content: Any) -> bool:
    return isinstance(content, list) and any(not isinstance(part, ImagePart) for part in content)


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"

"""The application: paths, their requests and answers, errors in one form."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from chexmix_cli import __version__
from chexmix_cli.core.settings.load import nearest_hint
from chexmix_cli.core.text.disclaimer import UNVERIFIED
from chexmix_cli.serve.http.completions import begin
from chexmix_cli.serve.http.docs_page import docs_page
from chexmix_cli.serve.http.errors import STATUS, RefusedError
from chexmix_cli.serve.http.gate import Exchange, Gate
from chexmix_cli.serve.http.schemas import (
    ChatAnswer,
    ChatRequest,
    EmbedRequest,
    ErrorAnswer,
    FilmRequest,
    Health,
    InpaintRequest,
    ModelCard,
    ModelList,
    RecordAnswer,
)
from chexmix_cli.serve.http.service import Service
from chexmix_cli.serve.http.verbs import Classify, Embed, Inpaint, Tokenize
from chexmix_cli.serve.metrics import CONTENT_TYPE

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": ", ".join(name for name, one in STATUS.items() if one == status)}
    for status in sorted({*STATUS.values(), 422} - {499})
}
_ERRORS[422]["description"] = "The film gives no result: a reason code, such as NOT_CHEST or CORRUPT"


def create_app(service: Service, token: str | None) -> Gate:
    """Return the ASGI application of a service, its gate in front.

    Args:
        service: that answers.
        token: that requests must bring; None: they must come from this machine.
    """
    app = FastAPI(
        title="chexmix",
        version=__version__,
        description=f"Chest radiographs to draft reports and findings: {UNVERIFIED}.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    gate = Gate(app, service.served.settings.server, token, service.metrics, lambda: service.model.pace_s)
    service.metrics.watch("chexmix_queue_requests", "Requests taken in and not answered.", lambda: float(gate.taken))
    limit = float(service.served.settings.server.queue)
    service.metrics.watch("chexmix_queue_limit", "Most of them; one more is refused.", lambda: limit)
    _add_errors(app)
    _add_openai_paths(app, service)
    _add_film_paths(app, service)
    _add_server_paths(app, service, gate)
    return gate


def _exchange(request: Request) -> Exchange:
    exchange: Exchange = request.scope["exchange"]
    return exchange


def _add_openai_paths(app: FastAPI, service: Service) -> None:
    card = {"id": service.name, "object": "model", "created": service.started, "owned_by": "chexmix"}

    @app.post("/v1/chat/completions", response_model=ChatAnswer, responses=_ERRORS, tags=["OpenAI"])
    async def chat_completions(asked: ChatRequest, request: Request) -> Any:
        """Write a draft report of the one film in the messages, as chexmix generate-report does."""
        completion = await begin(service, asked, _exchange(request))
        if not asked.stream:
            return JSONResponse(await completion.whole())
        events = completion.events()
        # Now, so that what is refused has its status: it is too late once a stream has begun.
        first = await anext(events)
        return StreamingResponse(_chained(first, events), media_type="text/event-stream")

    @app.get("/v1/models", response_model=ModelList, tags=["OpenAI"])
    async def models() -> Any:
        """List the model that is served."""
        return JSONResponse({"object": "list", "data": [card]})

    @app.get("/v1/models/{name}", response_model=ModelCard, tags=["OpenAI"])
    async def model(name: str) -> Any:
        """Describe the model that is served."""
        if name != service.name:
            raise RefusedError("NO_SUCH_MODEL", f"no such model; expected {service.name}", param="model")
        return JSONResponse(card)


async def _chained(first: str, events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with aclosing(events):
        yield first
        async for event in events:
            yield event


def _add_film_paths(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize", response_model=RecordAnswer, responses=_ERRORS, tags=["films"])
    async def tokenize(asked: FilmRequest, request: Request) -> Any:
        """Turn a film into image codes."""
        return JSONResponse(await service.record(Tokenize(), asked.image, asked.id, _exchange(request)))

    @app.post("/classify", response_model=RecordAnswer, responses=_ERRORS, tags=["films"])
    async def classify(asked: FilmRequest, request: Request) -> Any:
        """Give the probability of each finding of a film."""
        if service.served.classifier is None:
            raise RefusedError("NO_HEAD", "the model has no head of findings")
        return JSONResponse(await service.record(Classify(), asked.image, asked.id, _exchange(request)))

    @app.post("/embed", response_model=RecordAnswer, responses=_ERRORS, tags=["films"])
    async def embed(asked: EmbedRequest, request: Request) -> Any:
        """Give the mean hidden states of a film's image tokens, by layer."""
        last = service.served.model.weights.settings.decoder.num_layers
        layers = tuple(asked.layers or range(last + 1))
        if max(layers) > last:
            raise RefusedError("BAD_REQUEST", f"no such layer; expected 0..{last}", param="layers")
        return JSONResponse(await service.record(Embed(layers), asked.image, asked.id, _exchange(request)))

    @app.post("/inpaint", response_model=RecordAnswer, responses=_ERRORS, tags=["films"])
    async def inpaint(asked: InpaintRequest, request: Request) -> Any:
        """Fill in a hidden part of a film; the picture is in the record, as a data: URL of a PNG."""
        verb = Inpaint(_mask(asked, service), service.served.seed if asked.seed is None else asked.seed)
        record = await service.record(verb, asked.image, asked.id, _exchange(request), keeps_picture=True)
        return JSONResponse(record)


def _mask(asked: InpaintRequest, service: Service) -> Any:
    from chexmix_cli.core.infer.inpainting.masked_film import BoxMask, PatternMask

    masks = [
        *([] if asked.box is None else [BoxMask(*asked.box)]),
        *([] if asked.block is None else [PatternMask("block", asked.block)]),
        *([] if asked.mask_ratio is None else [PatternMask(service.served.settings.region.pattern, asked.mask_ratio)]),
    ]
    if len(masks) != 1:
        raise RefusedError("BAD_REQUEST", f"{len(masks)} masks are given; expected one of box, block and mask_ratio")
    return masks[0]


def _add_server_paths(app: FastAPI, service: Service, gate: Gate) -> None:
    @app.get("/health", response_model=Health, responses={503: {"model": Health}}, tags=["server"])
    async def health() -> Any:
        """Say whether requests are taken: 200, or 503."""
        status = "failed" if not service.model.is_alive else "stopping" if gate.is_stopping else "ok"
        return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)

    @app.get("/metrics", response_class=Response, tags=["server"])
    async def metrics() -> Response:
        """Give queue, times, batches and refusals in Prometheus's text form."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return _refusal(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return _refusal(request, _invalid(error))

    @app.exception_handler(STATUS["NO_SUCH_PATH"])
    async def no_path(request: Request, error: Exception) -> JSONResponse:
        return _refusal(request, RefusedError("NO_SUCH_PATH", "no such path; see /docs"))

    @app.exception_handler(STATUS["BAD_METHOD"])
    async def no_method(request: Request, error: Exception) -> JSONResponse:
        return _refusal(request, RefusedError("BAD_METHOD", "not with this method; see /docs"))


def _refusal(request: Request, refused: RefusedError) -> JSONResponse:
    _exchange(request).code = refused.code
    return JSONResponse(refused.body(), status_code=refused.status, headers=refused.headers())


def _invalid(error: RequestValidationError) -> RefusedError:
    """Return what is wrong with a request's fields: the first of it, without the values."""
    first = error.errors()[0]
    names = [str(part) for part in first["loc"] if part != "body"]
    param = ".".join(names) or None
    if first["type"] == "extra_forbidden":
        known = [*ChatRequest.model_fields, *InpaintRequest.model_fields, *EmbedRequest.model_fields]
        hint = nearest_hint(names[-1], known)
        message = f"{param}: no such field" if hint is None else f"{param}: no such field; {hint}"
        return RefusedError("UNKNOWN_FIELD", message, param=param)
    if first["type"] == "json_invalid":
        return RefusedError("BAD_REQUEST", "the body is not JSON")
    said = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    return RefusedError("BAD_REQUEST", said if param is None else f"{param}: {said}", param=param)

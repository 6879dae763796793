"""The requests and answers: their fields, as the OpenAPI page shows them. Fields that are not here are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_IMAGE = "The film: data:image/png;base64,... or image/jpeg or application/dicom. URLs of the web are refused."


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ImageUrl(BaseModel):
    """Where the film is: in the request."""

    url: str = Field(description=_IMAGE)
    detail: Any = Field(None, description="Not read.")


class ImagePart(BaseModel):
    """The film."""

    type: Literal["image_url"]
    image_url: ImageUrl


class TextPart(BaseModel):
    """Text; not read."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message. One film in all of them is read; texts are not: the model writes reports and takes no instructions."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Annotated[ImagePart | TextPart, Field(discriminator="type")]] | None = None


class StreamOptions(_Request):
    """What a stream holds besides the report."""

    include_usage: bool = Field(False, description="One more chunk at the end, with usage.")
    include_obfuscation: bool | None = Field(None, description="Not read: nothing is padded.")


class ChatRequest(_Request):
    """A report of one film. Fields absent or null are as the server is set, seeds and temperature too."""

    model: str = Field(description="Name of the model, as GET /v1/models gives it.")
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, description="Most new tokens.")
    max_tokens: int | None = Field(None, ge=1, description="Older name of max_completion_tokens, which wins over it.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, description="Reports of the film; report i is sampled with seed + i.")
    seed: int | None = Field(None, description="Of sampling: the same seed, film and settings give the same report.")
    stream: bool | None = Field(None, description="Send the report as it is written, as server-sent events.")
    stream_options: StreamOptions | None = None
    # What would change a report and is not done: taken only where it asks for nothing.
    frequency_penalty: float | None = Field(None, description="Only 0.")
    presence_penalty: float | None = Field(None, description="Only 0.")
    logit_bias: dict[str, float] | None = Field(None, description="Only empty.")
    logprobs: bool | None = Field(None, description="Only false.")
    top_logprobs: int | None = Field(None, description="Only 0.")
    stop: str | list[str] | None = Field(None, description="Only null or empty.")
    response_format: dict[str, Any] | None = Field(None, description='Only {"type": "text"}.')
    modalities: list[str] | None = Field(None, description='Only ["text"].')
    tools: list[Any] | None = Field(None, description="Only empty.")
    tool_choice: Any = Field(None, description='Only "none" or "auto".')
    # What changes no report.
    user: str | None = Field(None, description="Not read, not logged.")
    metadata: dict[str, Any] | None = Field(None, description="Not read, not logged.")
    store: bool | None = Field(None, description="Not read: nothing is stored.")
    service_tier: str | None = Field(None, description="Not read.")
    safety_identifier: str | None = Field(None, description="Not read, not logged.")
    prompt_cache_key: str | None = Field(None, description="Not read.")
    parallel_tool_calls: bool | None = Field(None, description="Not read.")

    def unsupported(self) -> list[str]:
        """Return the fields that ask for something that is not done."""
        neutral: dict[str, tuple[Any, ...]] = {
            "frequency_penalty": (0,),
            "presence_penalty": (0,),
            "logit_bias": ({},),
            "logprobs": (False,),
            "top_logprobs": (0,),
            "stop": ([],),
            "response_format": ({"type": "text"},),
            "modalities": (["text"],),
            "tools": ([],),
            "tool_choice": ("none", "auto"),
        }
        return [name for name, values in neutral.items() if getattr(self, name) not in (None, *values)]


class FilmRequest(_Request):
    """One film."""

    image: str = Field(description=_IMAGE)
    id: str = Field("image", max_length=200, description="Of the record; patterns of hidden codes are drawn by it.")


class EmbedRequest(FilmRequest):
    """One film, and whose hidden states are wanted."""

    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="0 is the token embedding, L the output of block L. Default: all."
    )


class InpaintRequest(FilmRequest):
    """One film, and what is hidden of it: one of box, block and mask_ratio."""

    box: tuple[int, int, int, int] | None = Field(None, description="x, y, width, height in pixels of the film.")
    block: float | None = Field(None, gt=0, lt=1, description="Hide a square of this share of the image.")
    mask_ratio: float | None = Field(None, gt=0, lt=1, description="Hide this share of the image's codes.")
    seed: int | None = Field(None, description="Of what is drawn. Default: the server's.")


class ErrorBody(BaseModel):
    """Why a request got no result."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """The form of errors."""

    error: ErrorBody


class AnswerMessage(BaseModel):
    """The report."""

    role: Literal["assistant"]
    content: str | None = Field(description="The report; null where the weights have no text tokenizer.")
    refusal: None


class Choice(BaseModel):
    """One report."""

    index: int
    message: AnswerMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]
    chexmix: dict[str, Any] = Field(description="The fields of a record of chexmix generate-report, token_ids too.")


class Usage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatAnswer(BaseModel):
    """Draft reports of a film."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="Hash of the weights.")
    choices: list[Choice]
    usage: Usage


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    """The models that are served: one."""

    object: Literal["list"]
    data: list[ModelCard]


class RecordAnswer(BaseModel):
    """A record of the command of the same name."""

    model_config = ConfigDict(extra="allow")

    id: str
    status: Literal["ok"]


class Health(BaseModel):
    """Whether requests are taken."""

    status: Literal["ok", "stopping", "failed"]

"""What the server answers is what the commands say of the same film under the same settings."""

from __future__ import annotations

import html
import json

import pytest

from tests.serve.conftest import chat, data_url

#: Fields of a record that the command adds, or that name the file.
_OWN = {"id", "status"}


@pytest.fixture
def command(call, named_weights):  # noqa: F811
    """Return a function that gives the record of a command for one film."""

    def run(name, path, *arguments):
        done = call(name, path, "--weights", named_weights, "--device", "cpu", "--json", *arguments)
        assert done.code == 0, done.stderr
        (record,) = done.records
        return record

    return run


@pytest.fixture
def film(films):  # noqa: F811
    return films / "a.png"


SHORT = ("--set", "decode.max_new_tokens=16", "--set", "decode.draft_rows=8")


def test_a_report_is_the_commands(client, command, film, make_dicom, tmp_path):  # noqa: F811
    for path in (film, make_dicom(tmp_path / "film.dcm")):
        expected = command("generate-report", path, *SHORT)
        answer = client.report(path).json
        (choice,) = answer["choices"]
        assert choice["chexmix"] == {name: value for name, value in expected.items() if name not in _OWN}
        assert choice["message"] == {"role": "assistant", "content": expected["report"], "refusal": None}
        assert answer["usage"]["completion_tokens"] == len(expected["token_ids"]) > 0
        assert answer["model"] == "debug"
        assert "unverified" in choice["chexmix"]["mark"]
    assert choice["chexmix"]["view"] == "PA"


def test_choices_are_the_commands_seeds(client, command, film):
    sampled = ("--set", "decode.temperature=1.5", "--set", "decode.top_p=0.9")
    expected = [command("generate-report", film, *SHORT, *sampled, "--seed", seed)["token_ids"] for seed in (5, 6, 7)]
    answer = client.report(film, temperature=1.5, top_p=0.9, seed=5, n=3).json
    assert [choice["chexmix"]["token_ids"] for choice in answer["choices"]] == expected
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert len({tuple(ids) for ids in expected}) == 3
    assert answer["usage"]["completion_tokens"] == sum(map(len, expected))
    greedy = client.report(film, n=2).json["choices"]
    assert greedy[0]["chexmix"] == greedy[1]["chexmix"]


def test_most_tokens_are_counted_as_openai_counts_them(client, command, film):
    expected = command("generate-report", film, "--set", "decode.max_new_tokens=7")
    answer = client.report(film, max_tokens=3, max_completion_tokens=7).json
    assert answer["choices"][0]["chexmix"]["token_ids"] == expected["token_ids"]
    assert answer["choices"][0]["finish_reason"] == "length"
    usage = answer["usage"]
    assert usage["completion_tokens"] == 7
    assert usage["total_tokens"] == usage["prompt_tokens"] + 7
    # The image's codes between their markers, and the marker of the report.
    assert usage["prompt_tokens"] > client.service.served.model.weights.settings.vocabulary.tokens_per_image
    assert client.report(film, max_tokens=1).json["usage"]["completion_tokens"] == 1


def test_a_stream_says_the_same_piece_by_piece(client, film):
    fields = {"temperature": 1.5, "seed": 3, "n": 2}
    whole = client.report(film, **fields).json
    answer = client.report(film, stream=True, stream_options={"include_usage": True}, **fields)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, last = answer.events
    assert last["choices"] == []
    assert last["usage"] == whole["usage"]
    assert len({(chunk["id"], chunk["object"]) for chunk in [*chunks, last]}) == 1
    for index, choice in enumerate(whole["choices"]):
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "unverified" in own[0]["chexmix"]["mark"]
        texts = [one["delta"]["content"] for one in own[1:-1]]
        assert "".join(texts) == choice["message"]["content"]
        assert len(texts) > 1
        assert (own[-1]["finish_reason"], own[-1]["chexmix"]) == (choice["finish_reason"], choice["chexmix"])
    assert all("usage" not in chunk for chunk in client.report(film, stream=True).events)


def test_what_is_refused_before_a_stream_begins_has_its_status(client, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    answer = client.report(broken, stream=True)
    assert (answer.status, answer.code, answer.json["error"]["param"]) == (422, "UNKNOWN_FORMAT", "messages")


def test_texts_of_messages_are_not_read_and_it_is_said(client, film):
    body = chat(film)
    body["messages"].insert(0, {"role": "system", "content": "You are a poet."})
    fields = client.post("/v1/chat/completions", body).json["choices"][0]["chexmix"]
    plain = client.report(film).json["choices"][0]["chexmix"]
    assert "not read" in fields["notes"][-1]
    assert {**fields, "notes": plain.get("notes", [])} == {**plain, "notes": plain.get("notes", [])}


def test_codes_embeddings_and_fills_are_the_commands(client, command, film, make_dicom, tmp_path):  # noqa: F811
    for path in (film, make_dicom(tmp_path / "film.dcm")):
        expected = command("tokenize", path)
        record = client.post("/tokenize", {"image": data_url(path), "id": expected["id"]}).json
        assert record == expected
    expected = command("classify", film, "--embeddings", "--layer", "1", "--layer", "0")
    asked = {"image": data_url(film), "layers": [1, 0], "id": film.name}
    assert client.post("/embed", asked).json == expected
    assert set(client.post("/embed", {"image": data_url(film)}).json["embeddings"]) >= {"0", "1", "2"}
    expected = command("inpaint", film, "--block", "0.2", "--seed", "4")
    record = client.post("/inpaint", {"image": data_url(film), "block": 0.2, "seed": 4, "id": film.name}).json
    assert record.pop("picture").startswith("data:image/png;base64,iVBOR")
    assert record == expected


def test_models_are_listed_as_openai_lists_them(client):
    (card,) = client.get("/v1/models").json["data"]
    assert card["id"] == "debug"
    assert client.get("/v1/models/debug").json == card
    missing = client.get("/v1/models/gpt-4o")
    assert (missing.status, missing.code) == (404, "NO_SUCH_MODEL")


def test_openais_own_client_takes_the_answers(client, film):
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{client.port}/v1", api_key="none", max_retries=0) as asking:
        assert [one.id for one in asking.models.list()] == ["debug"]
        body = chat(film)
        found = asking.chat.completions.create(**body)
        whole = client.report(film).json["choices"][0]["chexmix"]
        assert found.choices[0].message.content == whole["report"]
        assert found.choices[0].model_extra["chexmix"]["token_ids"] == whole["token_ids"]
        pieces = [chunk.choices[0].delta.content or "" for chunk in asking.chat.completions.create(**body, stream=True)]
        assert "".join(pieces) == whole["report"]
        with pytest.raises(openai.NotFoundError) as caught:
            asking.chat.completions.create(**{**body, "model": "gpt-4o"})
        assert caught.value.code == "NO_SUCH_MODEL"
        with pytest.raises(openai.BadRequestError) as caught:
            asking.chat.completions.create(**body, frequency_penalty=0.5)
        assert (caught.value.code, caught.value.param) == ("UNSUPPORTED_FIELD", "frequency_penalty")


def test_the_page_of_the_interface_asks_nothing_of_the_network(client):
    page = client.get("/docs")
    assert page.status == 200
    described = json.loads(client.get("/openapi.json").text)
    for path, methods in described["paths"].items():
        assert all(f">{method.upper()}</span> {path}</h2>" in page.text for method in methods)
    assert "src=" not in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "default-src 'none'" in html.unescape(page.text)
    assert "messages.content.image_url.url" in page.text

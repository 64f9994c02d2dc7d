"""The doors for programs: gradio_client, values by name (v2), and MCP, over a real server whose models are made up."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import httpx
import pytest

import app.main
import speckd
from app.settings import Settings
from tests import coroutines
from tests.app import stand_in

KEYS = {"tokens", "topk_threshold", "gate"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speckd, "load_pair", stand_in.load_pair)
        patch.setattr(speckd, "inspect", stand_in.inspect)
        patch.setattr(speckd, "decode", stand_in.decode)
        patch.setattr(app.main, "Trainings", stand_in.NoTrainings)
        page = app.main.build(Settings(max_request_bytes=200_000), load_models=False)
        options = app.main.launch_options(page)
        page.launch(server_name="127.0.0.1", server_port=None, prevent_thread_lock=True, quiet=True, **options)
        yield page.local_url.rstrip("/")
        page.close()


def v2(server: str, name: str, values: Any) -> tuple[int, Any]:
    """A call by names: its status, and the data of its last event."""
    asked = httpx.post(f"{server}/gradio_api/call/v2/{name}", json=values, timeout=30)
    if asked.status_code != 200:
        return asked.status_code, asked.json()["detail"]
    told = httpx.get(f"{server}/gradio_api/call/v2/{name}/{asked.json()['event_id']}", timeout=60).text
    event, _, data = told.strip().split("\n\n")[-1].partition("\n")
    return (200 if event == "event: complete" else 500), json.loads(data.removeprefix("data: "))


@pytest.mark.slow
def test_gradio_client_calls_the_public_functions_by_name(server: str) -> None:
    from gradio_client import Client

    client = Client(server, verbose=False)
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/inspect", "/distill", "/decode"}
    answer = client.predict(prompt="What do bees eat?", k=3, api_name="/inspect")
    assert set(answer) >= KEYS and answer["gate"]["k"] == 3
    assert speckd.Trace.from_dict(answer).prompt == "What do bees eat?"


def test_values_by_name_are_answered_as_a_list_of_values_is(server: str) -> None:
    status, (answer,) = v2(server, "inspect", {"prompt": "Why?", "gate": "speck", "k": 7})
    assert status == 200 and set(answer) >= KEYS
    assert answer["gate"]["name"] == "speck" and answer["gate"]["k"] == 7
    status, (last,) = v2(server, "distill", {"steps": 3})
    assert status == 200 and last["state"] == "done"
    status, (record,) = v2(server, "decode", {"prompt": "Why?", "draft": "eagle", "policy": "fixed:g=2"})
    assert status == 200 and speckd.DecodeRecord.from_dict(record).prompt == "Why?"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "'prompt' is missing"), ({"prompt": "a", "nonsense": 1}, "no argument 'nonsense'"),
        ({"prompt": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, "Each value"),
        ({"prompt": ["a"]}, "Each value"), ([1], "JSON object"),
    ],
)  # fmt: skip
def test_a_call_by_name_that_does_not_fit_is_one_sentence(server: str, values: Any, words: str) -> None:
    status, told = v2(server, "inspect", values)
    assert status == 422 and words in told


def test_limits_hold_whatever_the_door(server: str) -> None:
    assert httpx.post(f"{server}/gradio_api/call/v2/inspect", json={"prompt": "x" * 300_000}).status_code == 413
    assert httpx.post(f"{server}/gradio_api/mcp", json={"prompt": "x" * 300_000}).status_code == 413
    status, told = v2(server, "inspect", {"prompt": "Why?", "max_new_tokens": 10_000})
    assert status == 500 and "1,024" in json.dumps(told).replace("1024", "1,024")


def test_every_argument_is_described(server: str) -> None:
    told = httpx.get(f"{server}/gradio_api/openapi.json").json()
    assert "/gradio_api/call/v2/inspect" in told["paths"] and "/gradio_api/call/v2/distill" in told["paths"]
    info = httpx.get(f"{server}/gradio_api/info").json()["named_endpoints"]
    assert set(info) == {"/inspect", "/distill", "/decode"}
    for endpoint in info.values():
        assert len(endpoint["description"].split()) > 8
        for parameter in endpoint["parameters"]:
            words = json.dumps(parameter)
            assert len(words.split()) > 12, parameter["parameter_name"]


def test_a_foreign_name_is_not_answered(server: str) -> None:
    for path in ("/", "/config", "/gradio_api/openapi.json", "/gradio_api/mcp"):
        assert httpx.get(server + path, headers={"host": "evil.example:7860"}).status_code == 421
        assert httpx.get(server + path, headers={"host": "localhost"}).status_code != 421


# --- MCP --------------------------------------------------------------------------------------------------------------

with_mcp = pytest.mark.skipif(find_spec("mcp") is None, reason="the package mcp is not installed")


def speak(server: str, talk: Any) -> Any:
    """Run a talk(session) with a real MCP client over loopback."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    async def whole() -> Any:
        async with (
            streamable_http_client(f"{server}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await talk(session)

    return coroutines.run(whole())


@with_mcp
def test_an_agent_finds_the_tools_with_their_descriptions(server: str) -> None:
    async def talk(session: Any) -> Any:
        return await session.list_tools()

    tools = {tool.name: tool for tool in speak(server, talk).tools}
    assert set(tools) == {"inspect", "distill", "decode"}
    assert "lossless" in json.dumps(tools["decode"].inputSchema["properties"]["lenience"])
    asked = tools["inspect"].inputSchema["properties"]
    assert "temperature" in asked and "softmax" in json.dumps(asked["temperature"])
    assert "request" not in tools["distill"].inputSchema["properties"]


@with_mcp
def test_an_agent_inspects_a_text(server: str) -> None:
    async def talk(session: Any) -> Any:
        return await session.call_tool("inspect", {"prompt": "What do bees eat?", "k": 2})

    answer = speak(server, talk)
    assert not answer.isError
    told = json.dumps([content.model_dump(mode="json") for content in answer.content])
    assert "topk_threshold" in told and "bees" in told


@with_mcp
def test_an_agent_decodes_a_text_and_hears_what_is_wrong_in_a_sentence(server: str) -> None:
    async def talk(session: Any) -> Any:
        asked = [{"prompt": "What do bees eat?"}, {"prompt": "Why?", "draft": "exit:layer=0"}]
        return [await session.call_tool("decode", arguments) for arguments in asked]

    good, bad = speak(server, talk)
    told = [json.dumps([one.model_dump(mode="json") for one in answer.content]) for answer in (good, bad)]
    assert not good.isError and "speckd.decode" in told[0] and "bees" in told[0]
    assert bad.isError and "layer is 0" in told[1]


@with_mcp
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("inspect", {"prompt": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}),
        ("inspect", {"prompt": "a", "nonsense": 1}), ("inspect", {}), ("answer", {}),
    ],
)  # fmt: skip
def test_an_agents_call_that_does_not_fit_is_refused_before_gradio_sees_it(
    server: str, tool: str, arguments: dict[str, Any]
) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    headers = {"accept": "application/json, text/event-stream"}
    answer = httpx.post(f"{server}/gradio_api/mcp", json=message, headers=headers)
    assert answer.status_code == 422 and len(answer.json()["detail"].split()) >= 4


@with_mcp
def test_what_an_agent_asks_wrongly_is_told_in_a_sentence(server: str) -> None:
    async def talk(session: Any) -> Any:
        return await session.call_tool("inspect", {"prompt": "Why?", "k": 0})

    answer = speak(server, talk)
    assert answer.isError and "k" in json.dumps([content.model_dump(mode="json") for content in answer.content])

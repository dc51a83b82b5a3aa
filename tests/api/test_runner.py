"""RWKV-Runner's routes: what its clients say comes to the configuration, to the models, and to the next answer."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from cortexd.api.app import create_app
from cortexd.api.runner import runner_routes
from cortexd.catalogue.catalogue import Catalogue, Edition
from cortexd.change_plan import ChangePlan
from cortexd.config import Settings, Sources, effective
from cortexd.config.merging import merged
from cortexd.configuration import Configuration
from cortexd.engines.registry import EngineRegistry
from cortexd.errors import InvalidConfiguration, LoadFailed
from cortexd.rollouts import Proven
from cortexd.state_library import StateLibrary
from cortexd.store.snapshot import Origin, Snapshot
from cortexd.store.store import Store
from cortexd.vetting import problems
from tests.api.serving import House, serving, turns_until
from tests.api.test_admin import assert_refused
from tests.checkpoint_files import tiny_state_dict, write_pth
from tests.fakes import FakeDaemon
from tests.store.stores import bug
from tests.tuned_states import tuned_state, write_state

WORLD = "RWKV-x070-World-0.1B"
TESTER = Origin(author="test", reason="to begin with", source="api")


class Prepared:
    """Implements `cortexd.configuration.Prepared`."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.plan = ChangePlan()


class RunnerDaemon(FakeDaemon):
    """Its catalogue and its configuration are real ones, only its engines are fakes."""

    forgotten = 0  # how often

    async def prepare(self, settings: Settings, *, strict: bool) -> Prepared:
        catalogue = Catalogue(settings)
        for alias in settings.alias:
            await self._recall(catalogue, *alias.weights)
        catalogue.refresh()
        wrong = list(problems(settings, catalogue, EngineRegistry(None), self.supervisor.history, {}))
        if strict and wrong:
            raise InvalidConfiguration("\n".join(wrong))
        return Prepared(settings, catalogue)

    def adopt(self, prepared: Prepared, version: int | None) -> None:
        before, self.settings, self.catalogue = self.catalogue.specs(), prepared.settings, prepared.catalogue
        self.rollouts.adopt(before, self.catalogue.specs(), version)
        self._reconcile()

    async def desire(self, name: str, author: str, reason: str, **keys: Any) -> None:
        origin = Origin(author=author, reason=reason, source="api")
        await self.configuration.change(lambda document: merged(document, {"model": {name: keys}}), origin)

    async def recall(self, name: str) -> None:
        await self._recall(self.catalogue, name)

    async def forget_states(self) -> None:
        self.forgotten += 1

    async def _recall(self, catalogue: Catalogue, *names: str) -> None:
        for name in names:
            if (edition := Edition.of(name)) is not None:
                catalogue.recall(edition, await self.configuration.past(edition.version))


class Client:
    """Of RWKV-Runner, at a daemon with some models."""

    def __init__(self, house: House, store: Store) -> None:
        self.house = house
        self.daemon: Any = house.daemon
        self.http = house.client
        self._store = store

    async def switch(self, model: str, **fields: Any) -> httpx.Response:
        return await self.http.post("/switch-model", json={"model": model, **fields})

    async def update(self, **fields: Any) -> httpx.Response:
        return await self.http.post("/update-config", json=fields)

    async def status(self) -> int:
        return (await self.http.get("/status")).json()["status"]

    async def until(self, status: int) -> None:
        async with asyncio.timeout(5):
            while await self.status() != status:
                pass

    async def complete(self, model: str = "rwkv", **fields: Any) -> httpx.Response:
        return await self.http.post("/completions", json={"model": model, "prompt": "hi", **fields})

    async def answers(self, model: str = "rwkv") -> str:
        """The model that answers for this name."""
        response = await self.complete(model)
        assert response.status_code == 200, response.text
        return response.headers["x-cortexd-model"]

    def asked(self, model: str) -> Any:
        """What the engine of this model was asked last."""
        return self.daemon.script(model).generations[-1].request

    def model(self, name: str) -> Any:
        """As the configuration has it, with what holds for all."""
        settings = self.daemon.configuration.settings
        (model,) = (model for model in settings.model if model.name == name)
        return effective(model, settings)

    def aliases(self) -> dict[str, Any]:
        return {alias.name: alias.to for alias in self.daemon.configuration.settings.alias}

    async def change(self, **patch: Any) -> None:
        await self.daemon.configuration.change(lambda document: merged(document, patch), TESTER)

    async def versions(self) -> list[Snapshot]:
        """Newest first."""
        return await self._store.snapshots.history()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with three models, and a file that is none."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("goose", "swan", WORLD)):
        write_pth(folder / f"{name}.pth", tiny_state_dict(seed, layers=2, vocabulary=257))
    (folder / "half.pth").write_bytes(b"PK")
    return folder


@pytest.fixture
async def client(models: Path, tmp_path: Path) -> AsyncGenerator[Client]:
    """None of the models is loaded, and there are no states."""
    data, file = tmp_path / "data", tmp_path / "cortexd.toml"
    file.write_text(f'[models]\ndirectories = ["{models}"]\nembedded = false\n')
    daemon, store = RunnerDaemon(), Store(data / "cortexd.db", bug)
    await store.start()
    sources = Sources(file=file, environment={"HOME": str(tmp_path)})
    daemon.configuration = Configuration(sources, daemon, daemon.events.publish, store.snapshots)
    await daemon.configuration.start()
    daemon.states = StateLibrary(store.states, data / "states")
    try:
        async with serving(daemon) as house:
            yield Client(house, store)
    finally:
        await store.close()


def succeeded(response: httpx.Response) -> bool:
    return (response.status_code, response.json()) == (200, "success")


@contextlib.asynccontextmanager
async def switching(client: Client, model: str, **fields: Any) -> AsyncGenerator["asyncio.Task[httpx.Response]"]:
    """A switch whose load does not end until this does."""
    script = client.daemon.script(model)
    script.loading.clear()
    switch = asyncio.create_task(client.switch(model, **fields))
    await turns_until(lambda: script.engines)
    try:
        yield switch
    finally:
        script.loading.set()
        await switch


async def test_a_switch_answers_when_the_model_is_ready_and_is_a_version(client: Client) -> None:
    async with switching(client, "goose") as switch:
        assert not switch.done()
        assert await client.status() == 2
    assert succeeded(switch.result())
    assert client.daemon.supervisor.status(client.daemon.catalogue.resolve("goose")).state == "ready"
    assert await client.status() == 3
    newest, _ = await client.versions()
    assert (newest.version, newest.source, newest.author) == (2, "api", "admin")
    assert newest.reason == "switched to goose by /switch-model"
    assert (await client.complete()).headers["x-cortexd-config"] == "2"
    assert succeeded(await client.switch("goose"))
    assert [version.version for version in await client.versions()] == [2, 1]  # nothing has changed


async def test_all_that_its_clients_call_the_model_leads_to_the_one_switched_to_last(client: Client) -> None:
    for model in ("goose", "swan"):
        assert succeeded(await client.switch(model))
        for name in ("rwkv", "gpt-3.5-turbo", "text-davinci-003"):
            assert await client.answers(name) == model
    assert (await client.complete("gpt-4")).status_code == 404


@pytest.mark.parametrize(
    "written", [f"models/{WORLD}.pth", f"C:\\RWKV\\models\\{WORLD}.pth", f"/srv/{WORLD}.st", WORLD, WORLD.lower()]
)
async def test_a_path_is_taken_for_the_name_at_its_end(client: Client, written: str) -> None:
    assert succeeded(await client.switch(written))
    assert await client.answers() == WORLD


async def test_a_name_with_a_slash_is_a_name_first(client: Client) -> None:
    await client.change(model={"org/swan": {"path": "goose.pth"}})
    assert succeeded(await client.switch("org/swan"))
    assert await client.answers() == "org/swan"


@pytest.mark.parametrize("written", ["models/gooze.pth", "../goose/..", "/etc/passwd", "."])
async def test_an_unknown_model_is_404_with_the_nearest_and_changes_nothing(client: Client, written: str) -> None:
    assert_refused(await client.switch(written), 404, "model_not_found", "goose")
    assert (client.aliases(), len(await client.versions())) == ({}, 1)


async def test_what_means_nothing_here_is_ignored_by_name(client: Client) -> None:
    response = await client.switch("goose", tokenizer="", customCuda=True, deploy=True)
    assert succeeded(response)
    assert response.headers["x-cortexd-ignored"] == "tokenizer, customCuda, deploy"


async def test_a_strategy_is_part_of_the_same_version(client: Client) -> None:
    assert succeeded(await client.switch("goose", strategy="cpu fp32"))
    assert (client.model("goose").strategy, len(await client.versions())) == ("cpu fp32", 2)
    assert client.daemon.script("goose").engines[-1].spec.strategy == "cpu fp32"
    assert succeeded(await client.switch("swan", strategy="auto"))
    assert [model.name for model in client.daemon.settings.model] == ["goose"]  # swan has it anyway
    assert succeeded(await client.switch("swan", strategy=""))
    assert len(await client.versions()) == 3


@pytest.mark.parametrize("strategy", ["cuda fp16i3", "mps fp16", "albatross workers=1 batch=8", "cpu  fp32"])
async def test_a_strategy_that_cannot_be_run_is_refused_and_changes_nothing(client: Client, strategy: str) -> None:
    refused = await client.switch("goose", strategy=strategy)
    assert_refused(refused, 400, "invalid_configuration", "model goose", f"{strategy!r}", "'cpu fp32'")
    assert (client.aliases(), len(await client.versions())) == ({}, 1)
    assert await client.status() == 0


async def test_while_one_switch_is_under_way_another_is_304(client: Client) -> None:
    async with switching(client, "goose"):
        for model in ("swan", "goose", ""):
            response = await client.switch(model)
            assert (response.status_code, response.content) == (304, b"")
    assert await client.answers() == "goose"
    assert succeeded(await client.switch("swan"))


async def test_a_switch_goes_on_when_its_client_has_left(client: Client) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        async with switching(client, "goose") as switch:
            switch.cancel()
            await asyncio.wait({switch})
            assert await client.status() == 2
    await client.until(3)
    assert len(client.daemon.script("goose").engines) == 1


async def test_a_load_that_fails_is_told_and_the_configuration_is_as_it_was(client: Client) -> None:
    await client.switch("goose")
    client.daemon.script("swan").load_error = "The weights are not finite."
    refused = await client.switch("swan", strategy="cpu fp32")
    assert_refused(refused, 503, "model_load_failed", "The weights are not finite.")
    newest, tried, before, _ = await client.versions()
    assert (newest.source, newest.restored_from, newest.content_hash) == (
        "rollback",
        before.version,
        before.content_hash,
    )
    assert newest.reason == "swan could not be switched to: The weights are not finite."
    assert tried.reason == "switched to swan by /switch-model"
    assert await client.answers() == "goose"
    assert await client.status() == 3


async def test_a_strategy_with_which_a_loaded_model_does_not_load_leaves_it_as_it_is(client: Client) -> None:
    await client.switch("goose")
    client.daemon.script("goose@3").load_error = "No such numbers."  # it is loaded beside the one that answers
    refused = await client.switch("goose", strategy="cpu fp32")
    assert_refused(refused, 503, "model_load_failed", "No such numbers.")
    assert await client.answers() == "goose"
    (engine,) = client.daemon.script("goose").engines
    assert (engine.spec.strategy, engine.stopped) == ("auto", False)


async def test_another_strategy_of_a_loaded_model_takes_over_when_it_is_ready(client: Client) -> None:
    await client.switch("goose")
    (engine,) = client.daemon.script("goose").engines
    successor = client.daemon.script("goose@3")
    successor.loading.clear()
    switch = asyncio.create_task(client.switch("goose", strategy="cpu fp32"))
    await turns_until(lambda: successor.engines)
    assert await client.status() == 2
    assert await client.answers() == "goose"
    assert not engine.stopped
    successor.loading.set()
    assert succeeded(await switch)
    response = await client.complete()
    assert (response.headers["x-cortexd-config"], response.headers["x-cortexd-tier"]) == ("3", "ready")
    assert successor.generations
    await turns_until(lambda: engine.stopped)


async def test_a_model_that_would_answer_as_it_was_earlier_is_loaded_as_it_is_configured(client: Client) -> None:
    spec, rollouts = client.daemon.catalogue.resolve("goose"), client.daemon.rollouts
    rollouts.recall({"goose": Proven(msgspec.structs.replace(spec, strategy="cpu fp32"), 1)})
    rollouts.fall_back(spec, LoadFailed("It failed yesterday."))
    assert succeeded(await client.switch("goose"))
    assert (await client.complete()).headers["x-cortexd-config"] == "2"
    (engine,) = client.daemon.script("goose").engines
    assert engine.spec.strategy == "auto"


async def test_what_changed_meanwhile_is_not_undone_with_a_failed_switch(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.daemon.script("goose").load_error = "No."
    async with switching(client, "goose") as switch:
        await client.change(lifecycle={"max_wait": 7})
    assert_refused(switch.result(), 503, "model_load_failed", "No.")
    assert client.daemon.settings.lifecycle.max_wait == 7
    assert client.aliases()["rwkv"] == "goose"
    assert "could not be put right: Version 3" in caplog.text


async def test_a_damaged_file_is_refused_before_anything_changes(client: Client) -> None:
    assert_refused(await client.switch("half"), 503, "unsupported_checkpoint", "half.pth")
    assert (client.aliases(), len(await client.versions())) == ({}, 1)


async def test_no_model_unloads_the_present_one_which_the_next_request_loads_again(client: Client) -> None:
    assert succeeded(await client.switch(""))  # there is none
    await client.switch("goose")
    await client.change(model={"goose": {"preload": True}})
    assert succeeded(await client.switch(""))
    (engine,) = client.daemon.script("goose").engines
    await turns_until(lambda: engine.stopped)
    await client.until(0)
    assert not client.model("goose").preload
    assert await client.answers() == "goose"


async def test_names_that_lead_elsewhere_are_left_to_those_who_gave_them(client: Client) -> None:
    await client.change(alias={"gpt-3.5-turbo": {"to": "swan"}}, model={"swan": {"aliases": ["Text-Davinci-003"]}})
    for _ in range(2):
        assert succeeded(await client.switch(WORLD))
        assert client.aliases() == {"gpt-3.5-turbo": "swan", "rwkv": WORLD}


async def test_where_rwkv_is_a_model_only_this_one_can_be_switched_to(client: Client) -> None:
    await client.change(model={"swan": {"aliases": ["RWKV"]}})
    assert_refused(await client.switch("goose"), 409, "conflict", "a name of the model swan")
    assert succeeded(await client.switch("swan"))
    assert client.aliases() == {"gpt-3.5-turbo": "swan", "text-davinci-003": "swan"}
    assert await client.answers() == "swan"


async def test_a_weighted_alias_is_switched_to_one_model(client: Client) -> None:
    await client.change(alias={"RWKV": {"to": {"goose": 1, "swan": 3}}})
    assert succeeded(await client.update(top_k=7))
    assert client.model("swan").sampling.top_k == 7  # which most have
    assert succeeded(await client.switch("goose"))
    assert client.aliases()["RWKV"] == "goose"


async def test_a_model_as_an_earlier_version_had_it_is_switched_to_but_not_changed(client: Client) -> None:
    await client.change(model={"goose": {"sampling": {"top_k": 5}}})
    await client.change(model={"goose": {"sampling": {"top_k": 6}}})
    assert_refused(await client.switch("goose@2", strategy="cpu fp32"), 409, "conflict", "goose@2")
    assert succeeded(await client.switch("goose@2"))
    assert await client.answers() == "goose@2"


async def test_sampling_is_in_force_for_the_next_completion_and_a_version(client: Client) -> None:
    await client.switch("goose")
    said = {
        "temperature": 1.5,
        "top_p": 0.5,
        "top_k": 40,
        "presence_penalty": 0.25,
        "frequency_penalty": -0.5,
        "penalty_decay": 0.995,
        "max_tokens": 2,
    }
    assert succeeded(await client.update(**said))
    answer = (await client.complete()).json()["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == ("Hello, dear ", "length")
    sampling = client.asked("goose").sampling
    assert {name: getattr(sampling, name) for name in said if name != "max_tokens"}.items() <= said.items()
    assert (await client.complete(max_tokens=3)).json()["choices"][0]["finish_reason"] == "stop"
    newest = (await client.versions())[0]
    assert (newest.version, newest.reason) == (3, "changed by /update-config")
    assert succeeded(await client.update(top_k=1))  # the rest stays
    await client.complete()
    assert (client.asked("goose").sampling.top_k, client.asked("goose").sampling.top_p) == (1, 0.5)


async def test_what_is_not_said_changes_nothing_and_makes_no_version(client: Client) -> None:
    await client.switch("goose")
    for body in ({}, {"global_penalty": False, "top_p": None}):
        assert succeeded(await client.update(**body))
    assert len(await client.versions()) == 2
    response = await client.update(user_name="Bob")
    assert (response.json(), response.headers["x-cortexd-ignored"]) == ("success", "user_name")


async def test_the_longest_answer_by_default_may_not_exceed_the_limit(client: Client) -> None:
    await client.switch("goose")
    await client.change(limits={"max_tokens": 9})
    assert succeeded(await client.update(max_tokens=102_400))
    await client.complete()
    assert client.asked("goose").max_tokens == 9


@pytest.mark.parametrize(("said", "taken"), [(0, 0.1), (0.05, 0.1), (0.2, 0.2), (3, 3)])
async def test_a_temperature_below_a_tenth_is_a_tenth(client: Client, said: float, taken: float) -> None:
    await client.switch("goose")
    assert succeeded(await client.update(temperature=said))
    await client.complete()
    assert client.asked("goose").sampling.temperature == taken


@pytest.mark.parametrize(
    ("field", "lowest", "highest", "beyond"),
    [
        ("max_tokens", 1, 102_400, (0, 102_401, 1.5)),
        ("temperature", 0, 3, (-0.1, 3.1, "1")),
        ("top_p", 0, 1, (-0.1, 1.1)),
        ("presence_penalty", -2, 2, (-2.1, 2.1)),
        ("frequency_penalty", -2, 2, (-2.1, 2.1)),
        ("penalty_decay", 0.99, 0.999, (0.98, 1)),
        ("top_k", 0, 100, (-1, 101)),
        ("global_penalty", False, None, (True, "no")),
        ("state", "", None, (7,)),
    ],
)
async def test_a_field_out_of_its_range_is_400_with_its_name(
    client: Client, field: str, lowest: Any, highest: Any, beyond: tuple[Any, ...]
) -> None:
    await client.switch("goose")
    for value in (lowest, highest):
        assert succeeded(await client.update(**{field: value})), value
    count = len(await client.versions())
    for value in beyond:
        refused = (
            await client.update(top_k=3, **{field: value}) if field != "top_k" else await client.update(top_k=value)
        )
        assert_refused(refused, 400, "invalid_value", field)
        assert refused.json()["error"]["param"] == field
    assert len(await client.versions()) == count


async def test_without_a_model_there_is_nothing_to_configure(client: Client) -> None:
    assert_refused(await client.update(top_p=0.5), 400, "invalid_value", "model not loaded", "/switch-model")
    assert len(await client.versions()) == 1


async def test_a_state_is_named_by_name_or_by_the_path_of_its_file(client: Client, tmp_path: Path) -> None:
    await client.switch("goose")
    poet = await client.daemon.states.add("poet", write_state(tmp_path / "poet.pth", tuned_state()), "ann")
    for written in ("poet", "state-models/poet.pth", "..\\poet.pth", "poet@1"):
        assert succeeded(await client.update(state="")), written
        await client.complete()
        assert client.asked("goose").state is None
        assert succeeded(await client.update(state=written))
        await client.complete()
        assert client.asked("goose").state.hash == poet.content_hash


async def test_a_state_that_is_not_there_or_does_not_fit_changes_nothing(client: Client, tmp_path: Path) -> None:
    await client.switch("goose")
    await client.daemon.states.add("poet", write_state(tmp_path / "poet.pth", tuned_state(layers=3)), "ann")
    assert_refused(await client.update(state="poem", top_k=3), 404, "state_not_found", "poet")
    assert_refused(await client.update(state="poet", top_k=3), 400, "invalid_value", "goose needs")
    assert len(await client.versions()) == 2


async def test_the_cache_of_states_is_switched_off_and_on_and_each_is_a_version(client: Client) -> None:
    assert succeeded(await client.http.post("/enable-state-cache"))  # as it is anyway
    for path, enabled in (("/disable-state-cache", False), ("/enable-state-cache", True)):
        assert succeeded(await client.http.post(path))
        assert client.daemon.settings.cache.enabled is enabled
    reasons = [version.reason for version in await client.versions()]
    assert reasons == ["enabled by /enable-state-cache", "disabled by /disable-state-cache", "the first start"]


@pytest.mark.parametrize("path", ["/reset-state", "/reset-state-cache"])
async def test_what_the_cache_holds_is_forgotten(client: Client, path: str) -> None:
    assert succeeded(await client.http.post(path))
    assert (client.daemon.forgotten, len(await client.versions())) == (1, 1)


async def test_the_status_is_that_of_the_model_behind_rwkv(client: Client) -> None:
    status = (await client.http.get("/status")).json()
    assert set(status) == {"status", "pid", "device_name"}
    assert (status["status"], status["device_name"]) == (0, "CPU")
    assert status["pid"] > 0
    await client.daemon.make_ready("swan")
    assert await client.status() == 0
    await client.switch("swan")
    assert await client.status() == 3


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"goose"', b"{}", b'{"model": null}', b'{"model": 5}'])
async def test_a_body_that_is_no_switch_is_400(client: Client, body: bytes) -> None:
    response = await client.http.post("/switch-model", content=body)
    assert_refused(response, 400, "invalid_value")
    assert succeeded(await client.switch("goose"))  # none of them is under way for ever


async def test_openais_routes_are_there_without_their_version_too(client: Client) -> None:
    await client.switch("goose")
    chat = {"model": "rwkv", "messages": [{"role": "user", "content": "hi"}]}
    for path in ("/v1/chat/completions", "/chat/completions"):
        answer = (await client.http.post(path, json=chat)).json()
        assert answer["choices"][0]["message"]["content"] == "Hello, dear world!"
    for path in ("/models", "/models/goose", "/models/gpt-3.5-turbo"):
        response = await client.http.get(path)
        assert (response.status_code, response.json()) == (200, (await client.http.get(f"/v1{path}")).json())


async def test_what_changes_things_answers_to_this_machine_alone(client: Client) -> None:
    changing = [route.path for route in runner_routes(client.daemon) if route.methods == {"POST"}]
    assert len(changing) == 6
    transport = httpx.ASGITransport(create_app(client.daemon), client=("10.0.0.9", 5000))
    page = {"origin": "http://evil.example"}
    async with httpx.AsyncClient(transport=transport, base_url="http://models.example") as far:
        for path in changing:
            refused = await far.post(path, json={"model": "goose"})
            assert_refused(refused, 403, "forbidden", "same machine")
            refused = await client.http.post(path, json={"model": "goose"}, headers=page)
            assert_refused(refused, 403, "forbidden", "pages of other sites")
        assert (await far.get("/status")).status_code == 200
    assert not client.daemon.script("goose").engines
    assert (client.daemon.forgotten, len(await client.versions())) == (0, 1)

"""A client of RWKV-Runner at the real program: it switches, configures and asks, and knows nothing of cortexd."""

from pathlib import Path
from typing import Any

from tests.end_to_end.conftest import RunningDaemon, Start
from tests.end_to_end.test_configuration import write_broken


async def complete(daemon: RunningDaemon, **fields: Any) -> Any:
    body = {"model": "rwkv", "prompt": "Once upon a time", **fields}
    response = await daemon.client.post("/completions", json=body)
    assert response.status_code == 200, response.text
    return response


async def test_a_client_of_rwkv_runner_finds_what_it_expects(start: Start, tmp_path: Path):
    async with start(tmp_path) as daemon:
        assert (await daemon.client.get("/status")).json()["status"] == 0
        asked = {"model": "models/demo.pth", "strategy": "cpu fp32", "tokenizer": "", "customCuda": False}
        switched = await daemon.client.post("/switch-model", json=asked)
        assert (switched.status_code, switched.json()) == (200, "success")
        status = (await daemon.client.get("/status")).json()
        assert (status["status"], status["pid"]) == (3, (await daemon.worker("demo")).pid)
        coldest = {"temperature": 0, "top_k": 1, "max_tokens": 5}
        assert (await daemon.client.post("/update-config", json=coldest)).json() == "success"
        first, second = await complete(daemon), await complete(daemon)
        assert first.headers["x-cortexd-model"] == "demo"
        assert first.json()["choices"] == second.json()["choices"]
        assert first.json()["usage"]["completion_tokens"] <= 5
        refused = await daemon.client.post("/switch-model", json={"model": "demo", "strategy": "cuda fp16i3 *10+"})
        assert "'cuda fp16i3 *10+' is not one this version can run" in refused.json()["error"]["message"]
        for path in ("/disable-state-cache", "/reset-state", "/enable-state-cache"):
            assert (await daemon.client.post(path)).json() == "success"
        reasons = [row["reason"] for row in (await daemon.client.get("/admin/snapshots")).json()["snapshots"]]
        assert reasons == [
            "enabled by /enable-state-cache",
            "disabled by /disable-state-cache",
            "changed by /update-config",
            "switched to demo by /switch-model",
            "the first start",
        ]
        assert (await daemon.client.post("/switch-model", json={"model": ""})).json() == "success"
        await daemon.until("demo", "cold")
        assert (await complete(daemon)).headers["x-cortexd-tier"] == "cold"


async def test_a_switch_to_a_model_that_does_not_load_is_undone(start: Start, tmp_path: Path):
    write_broken(tmp_path)
    async with start(tmp_path) as daemon:
        await daemon.client.post("/switch-model", json={"model": "demo"})
        refused = await daemon.client.post("/switch-model", json={"model": "sick.pth"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "server_error")
        (newest, *_) = (await daemon.client.get("/admin/snapshots")).json()["snapshots"]
        assert (newest["source"], newest["restored_from"]) == ("rollback", 2)
        assert refused.json()["error"]["message"] in newest["reason"]
        assert (await complete(daemon)).headers["x-cortexd-model"] == "demo"

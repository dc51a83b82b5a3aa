"""What clients asked of a configuration and were told, and whether the history that they find agrees with it."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import httpx

_REFUSED = {409: "conflict", 412: "stale"}
_PAGE = 100  # versions
_KEPT = 1000
_APPLIED = 2.0  # seconds from when a version is kept until it is in force, at most


@dataclass(frozen=True)
class Write:
    """One change that was sent; `number` is in every place that it changes, so that a half of it shows."""

    number: int
    expected: int | None  # the version it was made for
    within: float | None  # seconds, unless confirmed
    target: int | None  # the version that it goes back to

    @property
    def reason(self) -> str:
        return f"write {self.number}"


@dataclass(frozen=True)
class Trial:
    """What a head is beside its version: what it goes back to, and when."""

    confirmed: int
    deadline: float | None = None


def patch_of(number: int, aliases: int) -> dict[str, Any]:
    goose = {"name": "goose", "aliases": [f"{number}-{each}" for each in range(aliases)]}
    return {"lifecycle": {"max_wait": number}, "limits": {"max_tokens": number}, "model": [goose]}


def numbers_in(document: dict[str, Any]) -> set[int]:
    """Of the writes whose traces are there."""
    names = [alias for model in document["model"] for alias in model["aliases"]]
    aliases = {int(name.partition("-")[0]) for name in names}
    return aliases | {int(document["lifecycle"]["max_wait"]), document["limits"]["max_tokens"]}


class Ledger:
    """Every write and answer, and the history as far as it has been checked."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.ended: Counter[str] = Counter()
        self.reverted = 0
        self._writes: dict[str, Write] = {}  # by their reason
        self._acknowledged: dict[int, str] = {}  # the content of a version, as far as its ETag has it
        self._made: dict[str, int] = {}  # the version, by the reason of the write
        self._refused: set[str] = set()
        self._confirming: set[int] = set()
        self._confirmed: set[int] = set()
        self._rows: dict[int, dict[str, Any]] = {}  # what was found, by version
        self._trials: set[Trial] = set()  # one of them is true of the newest row

    @property
    def newest(self) -> int:
        """That is known of."""
        return max(self._acknowledged.keys() | self._rows.keys())

    def known(self) -> list[int]:
        return sorted(self._acknowledged.keys() | self._rows.keys())

    def sending(self, expected: int | None, within: float | None, target: int | None) -> Write:
        write = Write(len(self._writes) + 1, expected, within, target)
        self._writes[write.reason] = write
        self.ended["without an answer"] += 1
        return write

    def answered(self, write: Write, answer: httpx.Response) -> None:
        self.ended["without an answer"] -= 1
        if answer.status_code in _REFUSED:
            self.ended[_REFUSED[answer.status_code]] += 1
            self._refused.add(write.reason)
            return
        if answer.is_error:
            self.problems.append(f"{write} was answered {answer.status_code}: {answer.text}")
            return
        outcome, tag = answer.json(), answer.headers["etag"].strip('"').partition("-")[2]
        version = outcome["version"]
        self.ended["acknowledged"] += 1
        if self._acknowledged.setdefault(version, tag) != tag:
            self.problems.append(f"version {version} was acknowledged with two contents")
        if outcome["changed"]:
            self._made[write.reason] = version
            if write.expected not in (None, version - 1):
                self.problems.append(f"{write} became version {version}")

    def confirming(self, version: int) -> None:
        self._confirming.add(version)

    def confirmed(self, version: int, answer: httpx.Response) -> None:
        if answer.is_success:
            self._confirmed.add(version)
            self.ended["confirmed"] += 1
        elif answer.status_code not in _REFUSED:
            self.problems.append(f"confirming {version} was answered {answer.status_code}: {answer.text}")

    async def check(self, client: httpx.AsyncClient, since: float) -> float | None:
        """That all is there, and nothing else, of a daemon started at `since`. Returns when what is in force is undone."""
        found = await _history(client)
        rows = {row["version"]: row for row in reversed(found["snapshots"])}
        self._count_confirmations(max(self._rows, default=0))
        for version, row in rows.items():
            if version in self._rows:
                self._expect(row == self._rows[version], f"version {version} has changed: {row}")
            else:
                self._explain(row)
                await self._check_content(client, version)
        self._expect(max(self._acknowledged, default=0) <= found["current"], f"{found['current']} is not the newest")
        for version, tag in self._acknowledged.items():
            if version in rows:
                self._expect(rows[version]["hash"].startswith(tag), f"version {version} has another content")
        trial = Trial(found["confirmed"], found["revert_at"])
        self._expect(trial in self._trials, f"{trial} is none of {self._trials}")
        self._trials = {trial}
        self._confirming.clear()  # whatever was not answered has been done by now, or never will be
        self._expect(trial.deadline is None or trial.deadline > since, f"{trial} was over at the start")
        await self._check_in_force(client, found["current"])
        verified = (await client.get("/admin/snapshots/verify")).json()
        self._expect(verified == {"fault": None}, str(verified))
        ready = (await client.get("/readyz")).json()
        self._expect(all(state == "ok" for state in ready["checks"].values()), str(ready))
        return trial.deadline

    async def check_all(self, client: httpx.AsyncClient) -> None:
        """That every version that was acknowledged is still there, of those that are kept."""
        answer = await client.get("/admin/snapshots", params={"limit": _KEPT})
        hashes = {row["version"]: row["hash"] for row in answer.json()["snapshots"]}
        for version, tag in self._acknowledged.items():
            if version > max(hashes) - _KEPT:
                self._expect(hashes.get(version, "").startswith(tag), f"version {version} is lost")

    async def until_reverted(self, client: httpx.AsyncClient, patience: float) -> None:
        """What is in force is undone although nothing starts; raises TimeoutError."""
        async with asyncio.timeout(patience):
            while (await client.get("/admin/config/status")).json()["revert_at"] is not None:
                pass

    def _explain(self, row: dict[str, Any]) -> None:
        """How the next version came to be, and what that says about when it is undone."""
        version = row["version"]
        self._expect(version == max(self._rows, default=0) + 1, f"version {version} is out of its place")
        self._rows[version] = row
        if row["source"] == "boot":
            self._expect(version == 1, f"version {version} is of a first start")
            trials = {Trial(1)}
        elif row["source"] == "auto-revert":
            self.reverted += 1
            trials = {Trial(version) for trial in self._trials if self._is_undone_by(trial, row)}
        else:
            trials = self._written(row)
        self._expect(bool(trials), f"version {version} came to be without a reason: {row}, {self._trials}")
        self._trials = trials
        self._count_confirmations(version)

    def _count_confirmations(self, newest: int) -> None:
        """Of a version that was the newest when they were sent, which may have been before or after it was checked."""
        if newest in self._confirmed:
            self._trials = {Trial(newest)}
        elif newest in self._confirming:
            self._trials = self._trials | {Trial(newest)}

    def _is_undone_by(self, trial: Trial, row: dict[str, Any]) -> bool:
        in_time = trial.deadline is not None and row["created_at"] >= trial.deadline
        same = row["hash"] == self._rows[trial.confirmed]["hash"]
        return in_time and same and row["restored_from"] == trial.confirmed

    def _written(self, row: dict[str, Any]) -> set[Trial]:
        version, reason = row["version"], row["reason"]
        write = self._writes.get(reason)
        if write is None or reason in self._refused or row["restored_from"] != write.target:
            return set()
        if self._made.setdefault(reason, version) != version:
            return set()
        if write.target is not None and row["hash"] != self._rows[write.target]["hash"]:
            return set()
        return {self._after(trial, write, row) for trial in self._trials}

    def _after(self, trial: Trial, write: Write, row: dict[str, Any]) -> Trial:
        deadline = trial.deadline if write.within is None else row["created_at"] + write.within
        if deadline is None or self._rows[trial.confirmed]["hash"] == row["hash"]:
            return Trial(row["version"])
        return Trial(trial.confirmed, deadline)

    async def _check_in_force(self, client: httpx.AsyncClient, newest: int) -> None:
        """What the newest version says, or one that came a moment ago, and not only on paper."""
        found = await _in_force(client, newest)
        kept = (await client.get(f"/admin/snapshots/{found['version']}")).json()
        self._expect(found["version"] >= newest, f"version {found['version']} is in force, not {newest}")
        same = (found["document"], found["hash"]) == (kept["document"], kept["hash"])
        self._expect(same, f"what is in force is not version {kept['version']}: {found}")
        in_force = found["settings"]["lifecycle.max_wait"]["value"]
        self._expect(in_force == found["document"]["lifecycle"]["max_wait"], f"{in_force} is in force")

    async def _check_content(self, client: httpx.AsyncClient, version: int) -> None:
        """Of one write, whole."""
        document = (await client.get(f"/admin/snapshots/{version}")).json()["document"]
        numbers = numbers_in(document)
        if (origin := self._origin(version)) is not None:
            self._expect(numbers == {origin.number}, f"version {version} is of the writes {numbers}, not {origin}")

    def _origin(self, version: int) -> Write | None:
        """Whose content it has; None for that of the first start."""
        while (row := self._rows[version])["restored_from"] is not None:
            version = row["restored_from"]
        return self._writes.get(row["reason"])

    def _expect(self, so: bool, otherwise: str) -> None:
        if not so:
            self.problems.append(otherwise)


async def _history(client: httpx.AsyncClient) -> dict[str, Any]:
    """The newest versions and what is in force, as one: it is read in two parts, between which a deadline may be over."""
    while True:
        found = (await client.get("/admin/snapshots", params={"limit": _PAGE})).json()
        if found["snapshots"][0]["version"] == found["current"]:
            return found


async def _in_force(client: httpx.AsyncClient, newest: int) -> dict[str, Any]:
    """As soon as it is the `newest` version: one that a deadline has just undone is kept before it is applied."""
    until = time.monotonic() + _APPLIED
    while True:
        found = (await client.get("/admin/config", params={"origin": "true"})).json()
        if found["version"] >= newest or time.monotonic() > until:
            return found

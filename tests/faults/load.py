"""Clients that send, send again what was not answered, and remember every 2xx."""

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx
import numpy as np

from faults.fleet import DEVICES, Keys, key_of, records

STEP_MS = 30_000
FIRST_DAY = 50
FIRST_STEP = FIRST_DAY * 86_400_000 // STEP_MS
"""Clients begin that many days after the base; the days before are free for single faults."""
_SIZES = (1, 1, 20, 60, 150, 500, 1200)
_LISTED_ERRORS = 100  # of a batch's answer
_PATIENCE_S = 120.0
# A flush waits six times 10 s for a lock at most; longer means that an answer was forgotten.
_SILENCE_S = 75.0
_PAUSE_S = 0.1


class Ledger:
    """What was sent and what was acknowledged, of all clients and rounds.

    Attributes:
        base_us: The time that every reading's milliseconds count from, µs since 1970.
        answers: How many requests got which status; "broken" for a connection that broke.
        problems: What no client should ever see.
        acknowledged_s: When the last 2xx came, by the monotonic clock.
    """

    def __init__(self, base_us: int) -> None:
        self.base_us = base_us
        self.answers: Counter[str] = Counter()
        self.problems: list[str] = []
        self.acknowledged_s = 0.0
        self.steps = itertools.count(FIRST_STEP)
        self._lock = threading.Lock()
        self._sent: list[Keys] = []
        self._acknowledged: list[Keys] = []

    def note_sent(self, keys: Keys) -> None:
        """Note readings that leave a client."""
        with self._lock:
            self._sent.append(keys)

    def note_acknowledged(self, keys: Keys) -> None:
        """Note readings that were answered as stored or duplicate."""
        with self._lock:
            self.acknowledged_s = time.monotonic()
            self._acknowledged.append(keys)

    def note_answer(self, what: str, problem: str = "") -> None:
        """Count an answer."""
        with self._lock:
            self.answers[what] += 1
            if problem:
                self.problems.append(problem)

    def some_acknowledged(self, rng: random.Random, size: int) -> Keys:
        """Return up to so many acknowledged readings."""
        with self._lock:
            if not self._acknowledged:
                return np.zeros(0, np.int64)
            keys = rng.choice(self._acknowledged)
        first = rng.randrange(len(keys))
        return keys[first : first + rng.randint(0, size)]

    def sent(self) -> Keys:
        """Return every reading that was ever sent, ascending."""
        return self._merged(self._sent)

    def acknowledged(self) -> Keys:
        """Return every reading that was ever acknowledged, ascending."""
        return self._merged(self._acknowledged)

    def _merged(self, parts: list[Keys]) -> Keys:
        with self._lock:
            parts[:] = [np.unique(np.concatenate([np.zeros(0, np.int64), *parts]))]
            return parts[0]


class Load:
    """A few clients beside each other, on the same devices.

    Args:
        ledger: Where they remember.
        urls: Returns the engines' addresses; each request goes to one of them.
        seed: Of what they send.
    """

    def __init__(
        self, ledger: Ledger, urls: Callable[[], list[str]], seed: int, clients: int = 4
    ) -> None:
        self._ledger = ledger
        self._urls = urls
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(f"{seed} {client}"),))
            for client in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End once every request under way is answered; the engines must be well."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, rng: random.Random) -> None:
        with httpx.Client(timeout=_SILENCE_S) as http:
            while not self._stop.is_set():
                keys = self._batch(rng)
                again = self._ledger.some_acknowledged(rng, min(len(keys) // 10, _LISTED_ERRORS))
                wrong = np.zeros(len(keys) + len(again), np.bool_)
                if rng.random() < 0.2:
                    wrong[len(keys) :] = True
                self._deliver(http, rng, np.concatenate([keys, again]), wrong)
                time.sleep(rng.uniform(0, _PAUSE_S))

    def _batch(self, rng: random.Random) -> Keys:
        """Return new readings of some devices, in no order; now and then late ones."""
        size = rng.choice(_SIZES)
        step = next(self._ledger.steps)
        if rng.random() < 0.15:
            step = max(FIRST_STEP, step - rng.randint(1, 600))
        start_ms = step * STEP_MS
        keys = [
            key_of(i % 2, rng.randrange(DEVICES), start_ms + rng.randrange(STEP_MS))
            for i in range(size)
        ]
        return np.unique(np.array(keys, np.int64))

    def _deliver(
        self, http: httpx.Client, rng: random.Random, keys: Keys, wrong: np.ndarray
    ) -> None:
        order = np.array(rng.sample(range(len(keys)), len(keys)), np.int64)
        keys, wrong = keys[order], wrong[order]
        body = records(keys, self._ledger.base_us, wrong=wrong)
        path, content = ("/v1/ingest", body[0]) if len(body) == 1 else ("/v1/ingest/batch", body)
        self._ledger.note_sent(keys[~wrong])
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            try:
                answer = http.post(rng.choice(self._urls()) + path, json=content)
            except httpx.TimeoutException:
                self._ledger.note_answer("silence", f"no answer in {_SILENCE_S:.0f} s")
                return
            except httpx.TransportError:
                self._ledger.note_answer("broken")
                if rng.random() < 0.1:
                    return  # a client that forgets: stored or not, both are right
                time.sleep(0.1)
                continue
            if answer.status_code == 503:
                lacks = "" if "retry-after" in answer.headers else f"no Retry-After: {answer.text}"
                self._ledger.note_answer(str(answer.status_code), lacks)
                time.sleep(0.1)
                continue
            self._settle(answer, keys, wrong)
            return
        self._ledger.note_answer("given up", f"no answer in {_PATIENCE_S:.0f} s")

    def _settle(self, answer: httpx.Response, keys: Keys, wrong: np.ndarray) -> None:
        """Take what was answered: exactly the readings with other values are refused."""
        status, body = answer.status_code, answer.json()
        if len(keys) == 1:
            refused = {0: body["error"]["code"]} if "error" in body else {}
        else:
            errors = body.get("errors", [{"index": -1, "code": answer.text}])
            refused = {error["index"]: error["code"] for error in errors}
        expected = dict.fromkeys(np.flatnonzero(wrong).tolist(), "conflict")
        problem = "" if refused == expected else f"{status}: {answer.text[:500]}"
        self._ledger.note_answer(str(status), problem)
        if not problem:
            self._ledger.note_acknowledged(keys[~wrong])

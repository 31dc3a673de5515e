"""Who reads without pause while the token changes never gets one that the API refuses."""

import threading
from datetime import timedelta
from typing import Self

from localcloud.aws import Cloud
from localcloud.qwen import ISSUES_THEN_REFUSES, QwenStandIn
from tests.proofs.crash_points.sandbox import DAY, RENEWS, Sandbox, Sandboxes, token_in

REFRESHES = 100
# After so many refreshes that end well comes one whose new token the API then refuses.
SPOILT_AFTER = 5


class Reader:
    """A service that reads the secret without pause, in a thread, and tries each token it gets."""

    def __init__(self, cloud: Cloud, sandbox: Sandbox) -> None:
        # A client of its own, as a service has.
        self._client = cloud.session.client("secretsmanager", endpoint_url=cloud.endpoint)
        self._secret_arn = sandbox.secret_arn
        self._qwen: QwenStandIn = sandbox.qwen
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self.reads = 0
        self.refused = 0
        self.tokens: set[str] = set()
        self.errors: list[Exception] = []

    def _read(self) -> None:
        try:
            while not self._stopped.is_set():
                held = self._client.get_secret_value(SecretId=self._secret_arn)
                raw = token_in(held["SecretString"])
                self.reads += 1
                self.refused += not self._qwen.accepts(raw)
                self.tokens.add(raw)
        except Exception as error:  # noqa: BLE001 - the test shall see it, in its own thread
            self.errors.append(error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


def test_every_read_gets_a_token_that_the_api_accepts(cloud: Cloud, sandboxes: Sandboxes) -> None:
    with sandboxes.sandbox(left=2 * DAY) as sandbox, Reader(cloud, sandbox) as reader:
        for number in range(REFRESHES):
            # Two refreshes within one second would not move the expiry, and be failures.
            sandbox.qwen.lifetime += timedelta(seconds=1)
            assert sandbox.run({"force": True}).word == "refreshed", number
            if number % SPOILT_AFTER == SPOILT_AFTER - 1:
                sandbox.qwen.answer_with(ISSUES_THEN_REFUSES)
                sandbox.qwen.lifetime += timedelta(seconds=1)
                assert sandbox.run({"force": True}).word == "upstream_unexpected", number
                sandbox.qwen.answer_with(RENEWS)

    print(f"{reader.reads} reads, {len(reader.tokens)} tokens")  # noqa: T201 - with -rP
    assert reader.errors == []
    assert reader.refused == 0
    assert len(reader.tokens) > REFRESHES / 2, "hardly read while it changed"
    assert reader.reads > REFRESHES

"""A Ray of our own takes nothing from who has not its token, though it is on the same machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from autopeft.runners._ray_session import ray_session

pytestmark = pytest.mark.slow

CLIENT = """
import sys, ray
# Ray takes localhost for a mistake otherwise, and asks the machine's own address, where nobody listens.
ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
ray.init(address=sys.argv[1])
print(ray.get(ray.remote(lambda: "let in").remote()))
"""


def test_who_has_not_the_token_is_not_let_in() -> None:
    with ray_session(None, 1) as session:

        def address() -> str:
            import ray

            return str(ray.get_runtime_context().gcs_address)

        command = [sys.executable, "-c", CLIENT, session.call(address)]
        bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        ours = {name: os.environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        strangers = ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a guess"})
        for own in (*strangers, ours):
            client = subprocess.run(command, env=bare | own, capture_output=True, text=True, timeout=120, check=False)
            assert ("let in" in client.stdout) is (own is ours), client.stderr

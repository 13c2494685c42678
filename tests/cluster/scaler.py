"""What KEDA does with the ScaledObjects that are deployed, against the monitoring port of a real nats-server.

Source: kedacore/keda, pkg/scalers/nats_jetstream_scaler.go (lag and when it is active) and
pkg/scaling/executor/scale_scaledobjects.go (idle and least number); cooldown left out.
"""

import asyncio
import json
import math
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

OBJECTS = Path(__file__).parents[2] / "k8s" / "components" / "scaling" / "scaledobjects.yaml"


@dataclass(frozen=True)
class Scaler:
    """Every ScaledObject, asked of one server."""

    port: int

    async def wanted(self) -> dict[str, int]:
        """Say how many replicas each Deployment is to have now."""
        specs = [found["spec"] for found in yaml.safe_load_all(OBJECTS.read_text())]
        return {spec["scaleTargetRef"]["name"]: await self._replicas(spec) for spec in specs}

    async def _replicas(self, spec: dict[str, Any]) -> int:
        triggers = [trigger["metadata"] for trigger in spec["triggers"]]
        lags = [await self.lag(found["account"], found["stream"], found["consumer"]) for found in triggers]
        if not any(lag > int(found["activationLagThreshold"]) for lag, found in zip(lags, triggers, strict=True)):
            return int(spec["idleReplicaCount"])
        most = max(math.ceil(lag / int(found["lagThreshold"])) for lag, found in zip(lags, triggers, strict=True))
        return int(min(max(most, spec["minReplicaCount"]), spec["maxReplicaCount"]))

    async def lag(self, account: str, stream: str, consumer: str) -> int:
        """Pending and unacknowledged messages; the stream's last sequence where the consumer is missing."""
        answer = await asyncio.to_thread(self._ask, account)
        (found,) = [each for each in answer["account_details"][0]["stream_detail"] if each["name"] == stream]
        for each in found["consumer_detail"]:
            if each["name"] == consumer:
                return int(each["num_pending"] + each["num_ack_pending"])
        return int(found["state"]["last_seq"])

    def _ask(self, account: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/jsz?acc={account}&config=true&consumers=true"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)

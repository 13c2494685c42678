"""A Kubernetes API server with Job controller, GPU scheduler and kubelet, simulated in one process over real HTTP."""

from tests.kubernetes.fake.cluster import Cluster, Node, Script
from tests.kubernetes.fake.faults import Fault
from tests.kubernetes.fake.server import ADMIN_TOKEN, LIMITED_TOKEN, ApiServer

__all__ = ["ADMIN_TOKEN", "LIMITED_TOKEN", "ApiServer", "Cluster", "Fault", "Node", "Script"]

"""`/api/v1/nodes`: the machines that run engines, as resources."""

import platform
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from accounts.models import User
from engines import room
from engines.launchers.choice import chosen_name
from engines.models import Engine, Gpu
from engines.nodes_serializers import NodePageSerializer, NodeSerializer
from engines.placement import SLICES
from vllm_portal.config import get_config
from vllm_portal.errors import NotFound

_NODE = {
    "id": "gpu-box-1",
    "launcher": "docker",
    "device": "cuda",
    "gpus": [
        {
            "index": 0,
            "uuid": "GPU-5c0b1f2e",
            "name": "NVIDIA H200",
            "memory_bytes": 150754820096,
            "memory_used_bytes": 138110042112,
            "utilization_percent": 87,
            "temperature_c": 54,
            "foreign_memory_bytes": 0,
            "engines": [{"name": "opt-125m-3fa9", "gpu_memory_share": 1.0}],
        }
    ],
    "cpu_slots": None,
    "engines": ["opt-125m-3fa9"],
}


class NodeViewSet(ViewSet):
    """The machines that run engines, their GPUs and what holds them."""

    serializer_class = NodeSerializer

    @extend_schema(
        responses=NodePageSerializer,
        examples=[
            OpenApiExample(
                "A machine with one GPU",
                {"next": None, "previous": None, "results": [_NODE]},
                response_only=True,
            )
        ],
    )
    def list(self, request: Request) -> Response:
        return Response({"next": None, "previous": None, "results": [_node(request.user)]})

    @extend_schema(responses=NodeSerializer, parameters=[OpenApiParameter("id", str, OpenApiParameter.PATH)])
    def retrieve(self, request: Request, pk: str) -> Response:
        node = _node(request.user)
        if pk != node["id"]:
            raise NotFound("There is no such node.")
        return Response(node)


def _node(user: User) -> dict[str, Any]:
    """This machine. GPUs are rows that the worker keeps; whose engine holds one is told to those who may see it."""
    own = dict(Engine.objects.active().usable_by(user).values_list("pk", "name"))
    gpus = Gpu.objects.filter(present=True).prefetch_related("leases")
    launcher = chosen_name()
    slots = room.of(on_cpu=True)
    return NodeSerializer(
        {
            "id": platform.node() or "localhost",
            "launcher": launcher,
            "device": "cpu" if launcher == "simulator" else get_config().device,
            "gpus": [
                {
                    "index": gpu.index,
                    "uuid": gpu.uuid,
                    "name": gpu.name,
                    "memory_bytes": gpu.memory_bytes,
                    "memory_used_bytes": gpu.memory_used_bytes,
                    "utilization_percent": gpu.utilization_percent,
                    "temperature_c": gpu.temperature_c,
                    "foreign_memory_bytes": gpu.foreign_memory_bytes,
                    "engines": [
                        {
                            "name": own.get(lease.engine_id, "(another user's)"),
                            "gpu_memory_share": lease.slices / SLICES,
                        }
                        for lease in gpu.leases.all()
                    ],
                }
                for gpu in gpus
            ],
            "cpu_slots": None if slots is None else {"count": slots.present, "free": slots.free},
            "engines": sorted(own.values()),
        }
    ).data

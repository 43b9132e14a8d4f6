"""`/api/v1/engines/fit`: whether a model fits, before it is started."""

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from engines.fit import question
from engines.fit_serializers import FitOrderSerializer, FitSerializer
from vllm_portal.errors import FieldError
from vllm_portal.rest import json_object

_ANSWER = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "commit": "0e9e39f249a16976918f6564b8830bc894c89659",
    "fits": False,
    "fits_now": False,
    "max_model_len": 131072,
    "model_max_len": 131072,
    "tensor_parallel_sizes": [1, 2, 4, 8, 16, 32],
    "parameters": 8030261248,
    "weights_bytes": 16060522496,
    "kv_cache_bytes_per_token": 131072,
    "kv_cache_bytes_per_distant_token": 131072,
    "places": [
        {
            "device": "cuda",
            "name": "NVIDIA L4",
            "memory_bytes": 24152899584,
            "count": 1,
            "free": 1,
            "fits": False,
            "basis": "estimated",
            "weights_bytes": 16060522496,
            "adapters_bytes": 0,
            "overhead_bytes": 2313695232,
            "cache_bytes": 3846449889,
            "needed_bytes": 17179869184,
            "max_model_len": 29344,
            "requests_at_once": 0,
            "problem": "One request of 131072 tokens needs 16.0 GiB of KV cache, and 3.6 GiB are left; that suffices "
            "for 29344 tokens.",
            "changes": [
                {"field": "max_model_len", "value": 29344, "text": "A max_model_len of 29344 or less."},
            ],
        }
    ],
    "notes": ["NVIDIA L4: vLLM uses 0.92 of its memory and takes up to 2048 tokens of 256 requests at once."],
}


class FitView(APIView):
    """Whether a model fits into the memory that is here, or into that of other GPUs; how long its requests may be, how
    many of them fit at once, and which one change would make it fit. Starts nothing and refuses no start: the numbers
    are estimates until a start of the model was measured here."""

    only_reads = True

    @extend_schema(
        request=FitOrderSerializer,
        responses=FitSerializer,
        examples=[
            OpenApiExample(
                "On two kinds of GPU",
                {
                    "model": "meta-llama/Llama-3.1-8B-Instruct",
                    "max_model_len": 32768,
                    "gpus": [{"name": "NVIDIA L4", "memory_gib": 22.5}, {"memory_gib": 80, "count": 2}],
                },
                request_only=True,
            ),
            OpenApiExample("It does not fit", _ANSWER, response_only=True),
        ],
    )
    def post(self, request: Request) -> Response:
        form = FitOrderSerializer(data=json_object(request.data), context={"request": request})
        form.is_valid(raise_exception=True)
        try:
            answer = question.ask(form.order(), form.validated_data["kv_cache_dtype"], form.places())
        except FieldError as error:
            raise form.as_written(error) from None
        return Response(FitSerializer(answer).data)

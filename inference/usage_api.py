"""`/api/v1/usage`: what requests cost, one by one and summed up."""

import csv
import io
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone
from django_filters import rest_framework as filters
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from inference.models import UsageRecord, UsageRollup
from inference.summary import COUNTS, GROUPS, SUMS, summary
from vllm_portal.v1 import Ordering, Page

DAYS = 30
MOST_DAYS = 366


class UsageRecordSerializer(serializers.ModelSerializer):
    class Meta:
        model = UsageRecord
        fields = [
            "id", "request_id", "user", "api_key", "engine", "model", "path", "streamed", *COUNTS, "exact", "outcome",
            "started_at", "first_token_ms", "duration_ms",
        ]  # fmt: skip


class SubjectFilter(filters.FilterSet):
    """What records and their sums have in common."""

    model = filters.CharFilter()
    engine = filters.UUIDFilter(field_name="engine_id")
    api_key = filters.NumberFilter(field_name="api_key_id", min_value=1, max_value=2**63 - 1)
    user = filters.NumberFilter(
        field_name="user_id", min_value=1, max_value=2**63 - 1, help_text="For admins: a user's id."
    )


class UsageFilter(SubjectFilter):
    started_after = filters.IsoDateTimeFilter(field_name="started_at", lookup_expr="gte")
    started_before = filters.IsoDateTimeFilter(field_name="started_at", lookup_expr="lt")
    outcome = filters.ChoiceFilter(choices=UsageRecord.Outcome.choices)

    class Meta:
        model = UsageRecord
        fields: list[str] = []


class SummaryQuerySerializer(serializers.Serializer):
    group_by = serializers.ChoiceField(list(GROUPS), default="day")
    started_after = serializers.DateTimeField(required=False, help_text=f"Default: {DAYS} days ago.")
    started_before = serializers.DateTimeField(required=False, help_text="Default: now.")
    # `format` is a name that REST framework keeps for itself.
    vars()["as"] = serializers.ChoiceField(["json", "csv"], default="json")

    def validate(self, given: dict[str, Any]) -> dict[str, Any]:
        before = given.setdefault("started_before", timezone.now())
        after = given.setdefault("started_after", before - timedelta(days=DAYS))
        if not timedelta(0) <= before - after <= timedelta(days=MOST_DAYS):
            raise serializers.ValidationError({"started_after": [f"The range is 0 to {MOST_DAYS} days."]})
        return given


class SummaryRowSerializer(serializers.Serializer):
    group = serializers.CharField(help_text="The day, or the name of the model, user, key or engine.")
    requests = serializers.IntegerField()
    prompt_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    generated_tokens = serializers.IntegerField()


class SummarySerializer(serializers.Serializer):
    results = SummaryRowSerializer(many=True)


@extend_schema_view(
    list=extend_schema(
        examples=[
            OpenApiExample(
                "One request",
                {
                    "id": 1,
                    "request_id": "b1946ac92492d2347c6235b4",
                    "user": 7,
                    "api_key": None,
                    "engine": "9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07",
                    "model": "facebook/opt-125m",
                    "path": "/v1/chat/completions",
                    "streamed": True,
                    "prompt_tokens": 12,
                    "cached_tokens": 0,
                    "generated_tokens": 40,
                    "exact": True,
                    "outcome": "completed",
                    "started_at": "2030-01-01T12:00:00Z",
                    "first_token_ms": 35,
                    "duration_ms": 410,
                },
                response_only=True,
            )
        ]
    )
)
class UsageViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet):
    """Your requests to engines and what each cost; for admins everybody's."""

    queryset = UsageRecord.objects.none()
    serializer_class = UsageRecordSerializer
    filterset_class = UsageFilter
    filter_backends = [*GenericViewSet.filter_backends[:1], Ordering]
    pagination_class = Page
    ordering_fields = ["started_at"]
    ordering = ["-started_at", "-id"]
    lookup_value_regex = "[0-9]{1,18}"

    def get_queryset(self) -> QuerySet[UsageRecord]:
        return self._theirs(UsageRecord.objects.all())

    def _theirs(self, rows: QuerySet[Any]) -> QuerySet[Any]:
        return rows if self.request.user.is_admin else rows.filter(user=self.request.user)

    @extend_schema(
        parameters=[SummaryQuerySerializer],
        responses={200: SummarySerializer, (200, "text/csv"): OpenApiResponse(str)},
        examples=[
            OpenApiExample(
                "By day",
                {
                    "results": [
                        {
                            "group": "2030-01-01",
                            "requests": 2,
                            "prompt_tokens": 24,
                            "cached_tokens": 0,
                            "generated_tokens": 80,
                        }
                    ]
                },
                response_only=True,
                media_type="application/json",
            )
        ],
    )
    @action(detail=False, pagination_class=None)
    def summary(self, request: Request) -> HttpResponse:
        """Sums by day, model, user, key or engine; the other filters count, too."""
        form = SummaryQuerySerializer(data=request.query_params)
        form.is_valid(raise_exception=True)
        wish = form.validated_data
        self.filter_queryset(self.get_queryset())  # refuses what makes no sense
        records, rollups = (
            SubjectFilter(request.query_params, queryset=self._theirs(table.objects.all())).qs
            for table in (UsageRecord, UsageRollup)
        )
        period = wish["started_after"], wish["started_before"]
        rows = summary(records, rollups, wish["group_by"], *period, request.query_params.get("outcome", ""))
        return _csv(rows, wish["group_by"]) if wish["as"] == "csv" else Response({"results": rows})


def _csv(rows: list[dict[str, Any]], group_by: str) -> HttpResponse:
    """A cell that a spreadsheet would take for a formula gets an apostrophe."""
    text = io.StringIO()
    names = ["group", *SUMS]
    writer = csv.writer(text)
    writer.writerow(names)
    for row in rows:
        cells = [str(row[name]) for name in names]
        writer.writerow(["'" + cell if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in cells])
    answer = HttpResponse(text.getvalue(), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="usage-by-{group_by}.csv"'
    return answer

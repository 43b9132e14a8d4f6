"""Sums of the records that are there already; and of the users' numbers, what the records do not explain."""


from django.db import migrations
from django.db.models import Count, F, Q, Sum
from django.db.models.functions import TruncDay, TruncHour
from datetime import UTC

_OF = ("user_id", "api_key_id", "engine_id", "model")


def fill(apps, schema_editor):
    UsageRecord = apps.get_model("inference", "UsageRecord")
    UsageRollup = apps.get_model("inference", "UsageRollup")
    TokenLimit = apps.get_model("accounts", "TokenLimit")
    for period, begin in (("hour", TruncHour), ("day", TruncDay)):
        sums = (
            UsageRecord.objects.order_by()
            .annotate(start=begin("started_at", tzinfo=UTC))
            .values("start", *_OF)
            .annotate(
                requests=Count("id"),
                completed=Count("id", filter=Q(outcome="completed")),
                prompt=Sum("prompt_tokens"),
                cached=Sum("cached_tokens"),
                generated=Sum("generated_tokens"),
                duration=Sum("duration_ms"),
            )
        )
        UsageRollup.objects.bulk_create(
            (
                UsageRollup(
                    period=period,
                    start=row["start"],
                    requests=row["requests"],
                    completed=row["completed"],
                    prompt_tokens=row["prompt"],
                    cached_tokens=row["cached"],
                    generated_tokens=row["generated"],
                    duration_ms=row["duration"],
                    **{name: row[name] for name in _OF},
                )
                for row in sums.iterator()
            ),
            batch_size=500,
        )
    spent = UsageRecord.objects.order_by().values("user_id").annotate(p=Sum("prompt_tokens"), g=Sum("generated_tokens"))
    TokenLimit.objects.update(
        prompt_tokens_corrected=F("prompt_token_number"), gen_tokens_corrected=F("gen_token_number")
    )
    for row in spent.exclude(user_id=None).iterator():
        TokenLimit.objects.filter(user_id=row["user_id"]).update(
            prompt_tokens_corrected=F("prompt_tokens_corrected") - row["p"],
            gen_tokens_corrected=F("gen_tokens_corrected") - row["g"],
        )


def forget(apps, schema_editor):
    apps.get_model("inference", "UsageRollup").objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("inference", "0004_rollups"), ("accounts", "0005_corrections")]
    operations = [migrations.RunPython(fill, forget)]

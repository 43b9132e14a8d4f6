"""Engines by what they do and whose they are."""

from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Max
from django.db.models.functions import Coalesce

from engines.states import ACTIVE, AWAKE, COMING_UP, FETCHED, RESTING, SERVING, Desired, State


class EngineQuerySet(models.QuerySet[Any]):
    def active(self) -> "EngineQuerySet":
        return self.filter(state__in=ACTIVE)

    def as_seen(self, engine: Any) -> "EngineQuerySet":
        """Its row, unless it is in another generation by now: what was seen of one says nothing of the next."""
        return self.filter(pk=engine.pk, generation=engine.generation)

    def wakeable(self) -> "EngineQuerySet":
        """Those that sleep, are about to, or have been woken and are not ready yet, at the first attempt or afresh: a
        request to them waits."""
        falling = models.Q(state=State.STOPPING, desired__in=(Desired.SLEEP, Desired.RUN))
        waking = models.Q(state__in=COMING_UP, desired=Desired.RUN, generation__gt=1)
        return self.filter(models.Q(state__in={State.ASLEEP, *RESTING}) | falling | waking)

    def awake(self) -> "EngineQuerySet":
        """Active, and something of them may run or come to run; also while vLLM sleeps."""
        return self.filter(state__in=AWAKE)

    def serving(self) -> "EngineQuerySet":
        return self.filter(state__in=SERVING)

    def sleeping(self) -> "EngineQuerySet":
        """In vLLM's own sleep, or on their way there."""
        return self.filter(state=State.SLEEPING)

    def in_line(self, on_cpu: bool) -> "EngineQuerySet":
        """Those that wait for GPUs, or for slots of the CPU, or fetch what they need before, the next one first, with
        the `priority` of their owners: the highest of their groups', 0 without any. Among equals who was asked for
        first comes first."""
        waiting = self.filter(state__in={State.QUEUED, *FETCHED}, desired=Desired.RUN)
        waiting = waiting.exclude(state__in=FETCHED, gpu_leases__isnull=False)
        waiting = waiting.exclude(state__in=FETCHED, cpu_leases__isnull=False)
        waiting = waiting.filter(device="cpu") if on_cpu else waiting.exclude(device="cpu")
        return waiting.annotate(
            priority=Coalesce(Max("owner__groups__priority__value"), 0), since=Coalesce("asked_at", "created_at")
        ).order_by("-priority", "since", "pk")

    def owned_by(self, user: "settings.AUTH_USER_MODEL") -> "EngineQuerySet":
        """Those whose life this user decides: an admin's are all."""
        return self if user.is_admin else self.filter(owner=user)

    def usable_by(self, user: "settings.AUTH_USER_MODEL") -> "EngineQuerySet":
        """Those this user may send requests to: one's own and those shared with all, with the user or with one of the
        user's groups; an admin: all."""
        if user.is_admin:
            return self
        named = self.model.shared_users.through.objects.filter(user=user).values("engine")
        grouped = self.model.shared_groups.through.objects.filter(group__user=user).values("engine")
        mine = models.Q(owner=user) | models.Q(shared=True)
        return self.filter(mine | models.Q(pk__in=named) | models.Q(pk__in=grouped))

"""A request on its way, until it is forwarded: what it may cost is reserved, and its turn is waited for."""

import asyncio
from typing import TYPE_CHECKING

from inference.asking import Asking, Reservation, Verdict
from inference.call import Call, Client, about, unprepare
from inference.errors import ApiError, LimitReached
from inference.fair_line import Place
from inference.limits import PromptTooLarge

if TYPE_CHECKING:
    from inference.relay import Relay


class Reserving:
    """Calls `_forward` when it may, or tells the client why not."""

    __slots__ = (
        "_admission", "_asking", "_call", "_client", "_counting", "_moved", "_outstanding", "_place", "_relay",
        "_reservation", "_wanted", "ended",
    )  # fmt: skip

    def __init__(self, relay: "Relay", call: Call, client: Client) -> None:
        self._relay, self._call, self._client = relay, call, client
        self._admission = relay.admission
        self._asking: Asking | None = None
        self._counting: asyncio.Task[None] | None = None
        self._reservation: Reservation | None = None
        self._place: Place | None = None
        self._outstanding = self._wanted = 0
        self._moved = self.ended = False

    def _aim(self) -> None:
        """Asks to be let through to the call's engine."""
        call = self._call
        self._outstanding = call.body.weight
        call.route.line.outstanding += self._outstanding
        self._ask(call.endpoint.prompt_bound(call.body, call.route.max_model_len), self._reserved)

    def _turn_elsewhere(self) -> bool:
        """Begins anew with another engine of the same name, once, where nothing has come from its own: what is held is
        given back, and reserved for the other one. False: there is none, or this was the other one."""
        other = None if self._moved else self._relay.instead(self._call)
        if other is None:
            return False
        self._moved = True
        self._withdraw()
        self._reservation = None
        self._leave()
        unprepare(self._call)
        self._call.route = other
        self._aim()
        return True

    def _leave(self) -> None:
        """The engine's line; twice is fine."""
        line = self._call.route.line
        line.outstanding -= self._outstanding
        self._outstanding = 0
        place, self._place = self._place, None  # it knows this exchange: kept, both would wait for the collector
        if place is not None:
            line.leave(place)

    def _ask(self, prompt_tokens: int, done: Verdict) -> None:
        call = self._call
        body, endpoint = call.body, call.endpoint
        wanted = self._wanted = endpoint.wanted(body, call.route.max_model_len)
        slice_tokens = self._relay.slice_tokens if endpoint.slices(body) else 0
        self._asking = self._admission.ask(
            call.caller, done, prompt_tokens, wanted, body.choices, slice_tokens, about(call),
            call.request_id if call.own_id else None,
        )  # fmt: skip

    def _reserved(self, answer: Reservation | ApiError) -> None:
        try:
            self._go_on(answer)
        except Exception as fault:
            self._crash(fault)

    def _go_on(self, answer: Reservation | ApiError) -> None:
        if isinstance(answer, Reservation):
            self._take_turn(answer)
        elif isinstance(answer, PromptTooLarge) and answer.left > 0 and self._call.body.text_only:
            # The bound is several times the real size of most prompts; this near the limit the engine counts.
            self._counting = self._relay.loop.create_task(self._count(answer.left))
        else:
            self._refuse(answer)

    async def _count(self, left: int) -> None:
        try:
            exact = await self._relay.count_prompt(self._call)
        except ApiError as error:
            self._refuse(error)
            return
        if exact > left:
            self._refuse(
                LimitReached(
                    f"The prompt has {exact} tokens, and {left} prompt tokens are left of your limit. "
                    "An admin can raise it."
                )
            )
            return
        self._ask(exact, self._counted)

    def _counted(self, answer: Reservation | ApiError) -> None:
        if isinstance(answer, Reservation):
            self._take_turn(answer)
        else:
            self._refuse(answer)

    def _refuse(self, error: ApiError) -> None:
        if not self.ended:
            self._end()
            self._client.fail(error)

    def _take_turn(self, reservation: Reservation) -> None:
        self._asking = None
        self._reservation = reservation
        self._place = self._relay.place(self._call, reservation, self._go, self._refuse_late)
        if self._place.going:
            self._go()

    def _go(self) -> None:
        try:
            self._forward()
        except Exception as fault:
            self._crash(fault)

    def _refuse_late(self, error: ApiError) -> None:
        """It waited for its turn in vain."""
        self._withdraw()
        self._refuse(error)

    def _withdraw(self) -> None:
        """Nothing has been forwarded: what is held is given back."""
        if self._reservation is not None:
            self._admission.withdraw(self._reservation)

    def _stop_asking(self) -> None:
        """The client left. What waits for its turn gives back what it holds."""
        if self._asking:
            self._asking.cancel()
        if self._counting:
            self._counting.cancel()
        if self._place is not None and not self._place.going:
            self._withdraw()

    # What comes after

    def _forward(self) -> None:
        raise NotImplementedError

    def _end(self) -> None:
        raise NotImplementedError

    def _crash(self, fault: Exception) -> None:
        raise NotImplementedError

"""What questions to a server cost, and a limit that is never passed."""

from __future__ import annotations

import threading

MOST_TOKENS = 10**9  # no honest reply has more


class OverBudget(Exception):
    """The budget has no room for what the next request can cost."""


class Budget:
    """Counts what was spent, in dollars, and sets aside the most that each request on its way can cost.

    price: (input, output), dollars a million tokens; None: nothing costs anything. discount: a factor on it.
    max_cost: dollars; a request that could pass them is OverBudget.
    """

    def __init__(
        self, price: tuple[float, float] | None, max_cost: float | None, discount: float = 1.0
    ) -> None:
        if max_cost is not None and price is None:
            raise ValueError(
                "to stop before a cost, give the price too: dollars for a million tokens, in and out"
            )
        self.price = price or (0.0, 0.0)
        self.max_cost = max_cost
        self.discount = discount
        self.cost = 0.0  # spent
        self.reserved = 0.0  # set aside
        self.lock = threading.Lock()

    def dollars(self, tokens_in: int, tokens_out: int) -> float:
        price_in, price_out = self.price
        return self.discount * (price_in * tokens_in + price_out * tokens_out) / 1e6

    def cost_of(self, reply: object, worst_cost: float) -> float:
        """What a reply says that it cost, or `worst_cost` if it does not clearly say so."""
        usage = reply.get("usage") if isinstance(reply, dict) else None
        if not isinstance(usage, dict):
            return worst_cost
        counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
        clear = all(isinstance(count, int) and 0 <= count <= MOST_TOKENS for count in counts)
        return self.dollars(*counts) if clear else worst_cost

    def reserve(self, worst_cost: float) -> None:
        """Set aside the most that a request can cost. Raises OverBudget if the budget does not have it."""
        with self.lock:
            self.refuse_more_than(worst_cost)
            self.reserved += worst_cost

    def settle(self, worst_cost: float, cost: float) -> None:
        """Book what a request cost, for which `worst_cost` was set aside."""
        with self.lock:
            self.reserved = max(0.0, self.reserved - worst_cost)
            self.cost += cost

    def book_lost(self, cost: float) -> None:
        """Book a try whose answer was lost, and keep what is set aside for the next one. Raises OverBudget if
        that no longer fits."""
        with self.lock:
            self.cost += cost
            self.refuse_more_than(0.0)

    def refuse_more_than(self, worst_cost: float) -> None:
        if self.max_cost is not None and self.cost + self.reserved + worst_cost > self.max_cost:
            raise OverBudget

    def end_sentence(self) -> str:
        return (
            f"stopped at ${self.cost:.4f} of this run: another question could pass its budget of "
            f"${self.max_cost:g}. The same command goes on, with a budget of its own"
        )

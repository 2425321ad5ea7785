"""A shopping list written as one function: it asks three shops at once, and buys above a limit only if allowed."""

import asyncio
from dataclasses import dataclass

from agent_host import RunContext, step, workflow

MARKUP = {"corner shop": 120, "supermarket": 100, "market": 90}  # in percent
DELIVERY = {"corner shop": 0, "supermarket": 40, "market": 90}  # in cents
LIMIT = 2000  # in cents


@dataclass
class Offer:
    shop: str
    item: str
    cents: int

    def __str__(self) -> str:
        return f"{self.item} for {self.cents / 100:.2f} at the {self.shop}"


@step
async def ask(shop: str, item: str) -> Offer:
    """Stands for a call to the shop. As a step it is made once, also if the process is killed and started again."""
    await asyncio.sleep(0.05)
    return Offer(shop, item, len(item) * 100 * MARKUP[shop] // 100 + DELIVERY[shop])


@step
async def buy(offer: Offer, key: str) -> str:
    """`key` is the same in every attempt, so that a shop that gets the order twice can tell."""
    return f"Bought {offer}."


async def best(item: str) -> Offer:
    offers = await asyncio.gather(*(ask(shop, item) for shop in MARKUP))
    return min(offers, key=lambda offer: offer.cents)


@workflow(name="shopping")
async def shopping(text: str, ctx: RunContext) -> str:
    """Takes one item, or several with commas between them. What was bought stays with the conversation."""
    offers = await asyncio.gather(*(best(item.strip()) for item in text.split(",")))
    spent: int = ctx.get_state("spent", 0) + sum(offer.cents for offer in offers)
    if spent > LIMIT and not await ctx.request_info(f"Spend {spent / 100:.2f}?", bool, request_id="limit"):
        return "Nothing bought."
    bought = [await buy(offer, f"{ctx.idempotency_key} {number}") for number, offer in enumerate(offers)]
    ctx.set_state("spent", spent)
    return "\n".join([*bought, f"Spent so far: {spent / 100:.2f}."])

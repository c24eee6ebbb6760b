"""The hop with FastStream and its broker for RabbitMQ."""

import asyncio
import json
import os
import time

from faststream.rabbit import Channel, RabbitBroker, RabbitExchange, RabbitQueue
from pydantic import BaseModel

MESSAGES = int(os.environ["MESSAGES"])


class Order(BaseModel):
    order: int
    sku: str
    quantity: int
    note: str


async def main() -> None:
    began, cpu = time.monotonic(), time.process_time()
    # By default it logs every message twice, which would be all that is measured.
    broker = RabbitBroker(
        os.environ["AMQP_URL"],
        default_channel=Channel(prefetch_count=256),
        graceful_timeout=60,
        logger=None,
    )
    left = MESSAGES
    done = asyncio.Event()

    # Acked after what it returns is published and confirmed.
    @broker.subscriber(RabbitQueue("bench.hop.in", declare=False))
    @broker.publisher(
        routing_key="done",
        exchange=RabbitExchange("bench", declare=False),
        persist=True,
    )
    async def hop(order: Order) -> Order:
        nonlocal left
        left -= 1
        if left == 0:
            done.set()
        return order.model_copy(update={"quantity": order.quantity + 1})

    await broker.start()
    await done.wait()
    await broker.stop()
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps({"seconds": seconds, "cpu": cpu}))


asyncio.run(main())

# A service in plain Python: consumes topics and publishes a result for each message to another
# topic. It replies to requests. It knows only the broker and the topic names.
import asyncio, json, os, secrets
from datetime import datetime, timezone
import aio_pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1")
APP = os.environ.get("APP", "polyglot")
IN = os.environ.get("IN", "orders.checked quotes.wanted").split()
OUT = os.environ.get("OUT", "orders.taxed")
NAME = os.environ.get("NAME", "taxes")


def work(order):
    return {**order, "total": round(order["price"] * 1.2, 2)}


async def main():
    connection = await aio_pika.connect_robust(URL)
    channel = await connection.channel()  # aio-pika uses publisher confirms
    await channel.set_qos(prefetch_count=16)
    exchange = await channel.get_exchange(APP)  # topic = routing key
    arguments = {"x-queue-type": "quorum"}
    # This program's queue, unknown to the app.
    queue = await channel.declare_queue(NAME, durable=True, arguments=arguments)
    for topic in IN:
        await queue.bind(exchange, topic)
    print("ready", flush=True)
    async with queue.iterator() as deliveries:
        async for delivery in deliveries:
            # Acks at the end of the block, after the broker has confirmed the result.
            async with delivery.process(requeue=True, ignore_processed=True):
                await handle(channel, exchange, delivery)


async def handle(channel, exchange, delivery):
    id = f"{delivery.message_id}/{NAME}"  # stable: a duplicate has the same id
    trace = str(delivery.headers.get("traceparent", "")).split("-")[1:2] or [secrets.token_hex(16)]
    now = datetime.now(timezone.utc).isoformat()
    event = {"specversion": "1.0", "id": id, "type": OUT, "source": f"/{NAME}", "time": now}
    headers = {f"cloudEvents_{name}": value for name, value in event.items()}
    headers["traceparent"] = f"00-{trace[0]}-{secrets.token_hex(8)}-01"
    result = {}
    try:
        result = work(json.loads(delivery.body))
    except Exception as error:
        if not delivery.reply_to:
            return await delivery.reject(requeue=False)  # drop it: a retry can't help
        headers["brickwork-error"] = f"{type(error).__name__}: {error}"  # for the requester
    message = aio_pika.Message(
        json.dumps(result).encode(), content_type="application/json", type=OUT, message_id=id,
        correlation_id=delivery.correlation_id, headers=headers, delivery_mode=2)
    if delivery.reply_to:
        await channel.default_exchange.publish(message, routing_key=delivery.reply_to)
    else:
        await exchange.publish(message, routing_key=OUT)


asyncio.run(main())

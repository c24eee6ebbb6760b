# Sends a request to an app and prints the reply. With --tell, only publishes a message.
# Usage: python ask.py TOPIC JSON [--tell]
import asyncio, os, secrets, sys, time, uuid
from datetime import datetime, timezone
import aio_pika

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1")
APP = os.environ.get("APP", "polyglot")


async def main(topic, payload, tell=None):
    async with await aio_pika.connect(URL) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(APP)
        id = str(uuid.uuid4())
        now = datetime.now(timezone.utc).isoformat()
        headers = {
            "cloudEvents_specversion": "1.0", "cloudEvents_id": id, "cloudEvents_type": topic,
            "cloudEvents_source": "/ask.py", "cloudEvents_time": now,
            "traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        }
        message = aio_pika.Message(
            payload.encode(), content_type="application/json", message_id=id, headers=headers,
            delivery_mode=2)
        if tell:
            await exchange.publish(message, routing_key=topic)
            return print("published", headers["traceparent"])
        # Direct reply-to: the broker sends replies to this channel, without a queue.
        replies = await channel.get_queue("amq.rabbitmq.reply-to", ensure=False)
        answered = asyncio.get_running_loop().create_future()
        await replies.consume(answered.set_result, no_ack=True)
        message.reply_to, message.correlation_id = "amq.rabbitmq.reply-to", id
        # Unix time in ms. No reply is needed after it.
        headers["brickwork-deadline"] = int(time.time() * 1000) + 10000
        message.headers = headers
        await exchange.publish(message, routing_key=topic)
        answer = await asyncio.wait_for(answered, timeout=10)
        if "brickwork-error" in answer.headers:
            sys.exit(answer.headers["brickwork-error"])
        print(answer.body.decode())


asyncio.run(main(*sys.argv[1:]))

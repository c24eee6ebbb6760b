# A program that speaks ZeroMQ by libzmq: peer.py MODE ENDPOINT COUNT. Prints what it receives.
import json, sys, time
import zmq

mode, endpoint, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = zmq.Context()
kind = {"push": zmq.PUSH, "pull": zmq.PULL, "pub": zmq.PUB, "sub": zmq.SUB, "sub-bind": zmq.SUB, "pull-bind": zmq.PULL,
        "dealer": zmq.DEALER, "router": zmq.ROUTER}[mode]
socket = context.socket(kind)


def say(*words):
    print(*words, flush=True)


if mode in ("push", "sub-bind", "pull-bind", "router", "pub"):
    socket.bind(endpoint)
else:
    socket.connect(endpoint)

if mode == "push":
    for n in range(count):
        socket.send(json.dumps({"n": n, "pad": "x" * (n % 400)}).encode())
    say("sent")
    time.sleep(600)
elif mode in ("pull", "pull-bind"):
    for _ in range(count):
        say(socket.recv().decode())
elif mode == "pub":
    # A publisher sends to those that have subscribed: until the test has seen enough.
    while True:
        for n in range(count):
            for topic in (b"orders.eu", b"orders.us", b"other"):
                socket.send_multipart([topic, json.dumps({"n": n, "topic": topic.decode()}).encode()])
        time.sleep(0.05)
elif mode in ("sub", "sub-bind"):
    socket.subscribe(b"orders")
    say("subscribed")
    for _ in range(count):
        topic, payload = socket.recv_multipart()
        say(topic.decode(), payload.decode())
elif mode == "dealer":
    for n in range(count):
        head = {"id": f"foreign-{n}", "type": "order"}
        socket.send_multipart([b"brickwork1", b"msg", json.dumps(head).encode(), b'{"n":%d}' % n])
        say(*(part.decode() for part in socket.recv_multipart()))
elif mode == "router":
    # Gives no ack at the first time that it sees a message.
    seen = set()
    while True:
        peer, protocol, act, *rest = socket.recv_multipart()
        if act == b"ping":
            socket.send_multipart([peer, protocol, b"pong"])
            continue
        head = json.loads(rest[0])
        say(head["id"], "again" if head["id"] in seen else "first")
        if head["id"] in seen:
            socket.send_multipart([peer, protocol, b"ack", head["id"].encode()])
        seen.add(head["id"])

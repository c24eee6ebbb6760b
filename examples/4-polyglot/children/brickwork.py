"""For programs that `process` or `process-source` starts. Copy this file beside yours.

Logs belong on stderr: print(..., file=sys.stderr).
"""
import collections, itertools, json, os, sys, threading


class Failure(Exception):
    """Fails a message: by default it is retried with the service's back-off; after="30s" retries
    it after a time, defer="30s" after a time without the loss of an attempt, retry=False never."""

    def __init__(self, text, **how):
        super().__init__(text)
        self.how = how


def _write(line):
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _read():
    line = sys.stdin.readline()
    return json.loads(line) if line.endswith("\n") else None


def serve(handler):
    """Handles messages one after the other. handler(message, ask) returns a list of messages to
    emit ({"port", "msg", "type"}), or {"emit", "reply"}. ask(port, msg) returns the reply of
    another service. Give the service in_flight = 1, or more if messages may wait in here."""
    waiting, numbers = collections.deque(), itertools.count(1)

    def asker(message):
        def ask(port, msg):
            number = str(next(numbers))
            _write({"id": message["id"], "ask": number, "port": port, "msg": msg})
            while (line := _read()) is not None:
                if line.get("ask") == number:
                    if "error" in line:
                        raise Failure(line["error"])
                    return line["reply"]
                if "ask" not in line:
                    waiting.append(line)
            sys.exit(0)

        return ask

    while (message := waiting.popleft() if waiting else _read()) is not None:
        if "ask" in message:
            continue  # a reply that comes after the answer
        try:
            done = handler(message, asker(message)) or []
            answer = done if isinstance(done, dict) else {"emit": done}
        except Exception as error:
            answer = {"error": str(error) or type(error).__name__, **getattr(error, "how", {})}
        _write({"id": message["id"], **answer})


def source(run, on_ack=None, on_refused=None):
    """Sends messages. run(position, send) gets the saved position or None; send(id, msg, ...)
    takes port=, type=, subject=, headers= and position=, and returns when the message is
    written. on_ack(id) covers all messages up to this one; on_refused(id, error) tells of one
    that can never be sent. When run returns, the program exits after the last ack; it also exits
    when the app stops."""
    open_ids, changed = {}, threading.Condition()

    def send(id, msg, **more):
        with changed:
            open_ids[id] = True
        _write({"id": id, "msg": msg, **more})

    def acks():
        while (line := _read()) is not None:
            with changed:
                if "refused" in line:
                    open_ids.pop(line["refused"], None)
                elif line["ack"] in open_ids:
                    while open_ids:
                        first = next(iter(open_ids))
                        del open_ids[first]
                        if first == line["ack"]:
                            break
                changed.notify_all()
            if "refused" in line and on_refused:
                on_refused(line["refused"], line["error"])
            elif "ack" in line and on_ack:
                on_ack(line["ack"])
        os._exit(0)  # the app stops

    start = _read()
    if start is None:
        return
    threading.Thread(target=acks, daemon=True).start()
    run(start["position"], send)
    with changed:
        changed.wait_for(lambda: not open_ids)

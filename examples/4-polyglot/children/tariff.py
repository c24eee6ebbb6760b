# Replies with the price of a kilowatt hour.
import brickwork


def handler(message, ask):
    night = message["msg"]["meter"] == "m0"
    return {"emit": [], "reply": {"cents": 20 if night else 30}}


brickwork.serve(handler)

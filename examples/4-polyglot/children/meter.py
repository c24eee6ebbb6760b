# Sends the readings of a meter. The position is the number of the last one.
import brickwork


def run(position, send):
    for number in range((position or 0) + 1, 101):
        reading = {"meter": f"m{number % 7}", "kwh": number * 1.5}
        send(f"reading-{number}", reading, type="reading", position=number)


brickwork.source(run)

"""Acts on each kind of event, and reports at its end. `python react.py 127.0.0.1:50071 SECONDS`."""

import sys
import threading

from saewatch.client import Client, Coverage, Disconnected, Firings, Gap, RequestEnded


def main(address: str, seconds: float) -> None:
    """Watches for ``seconds``."""
    incomplete: set[str] = set()
    with Client(address) as client, client.watch(category=["vcr", "spc_hlt"]) as watch:
        threading.Timer(seconds, watch.close).start()
        for event in watch:
            match event:
                case Firings():
                    for firing in event:
                        print(f"{firing.request}: {firing.shown} at {firing.position}, {firing.value:.2f}")
                    incomplete |= {str(event.requests[one]) for one in event.missed_request.tolist() if one >= 0}
                case RequestEnded():
                    verdict = "not all of it was seen" if str(event.request) in incomplete else "seen as a whole"
                    print(f"{event.request} has ended: {verdict}")
                case Gap() | Disconnected():
                    print(event)  # no verdict about what ran meanwhile; client.record(request) may know more
                case Coverage(blind=blind) if blind:
                    print(f"blind, so that nothing can be concluded: {blind[0]}")
    print(watch.totals)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

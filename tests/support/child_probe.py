"""A child that misbehaves as its question says, in place of the one that asks a library."""

import json
import os
import signal
import sys
import time


def main():
    question = json.load(sys.stdin)
    match question["library"]:
        case "hang":
            time.sleep(60)
        case "die":
            sys.stderr.write("Traceback\nMemoryError: no more for hush-hush\n")
            os.kill(os.getpid(), signal.SIGKILL)
        case "babble":
            print("100%|#####| 7/7\n", json.dumps({"rows": [["2022-09-06T12:00:00Z", "2022-09-06T13:00:00Z", 7]]}))
            print("bye")
        case "environment":
            names = ",".join(sorted(name for name in os.environ if "SECRET" in name or "PROXY" in name))
            print(json.dumps({"error": f"{names} {' '.join(sys.argv)}"}))


main()

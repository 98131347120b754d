"""What the launch scripts' tests put in the place of ray, reasoner-rl, ssh, srun and others: a record of the call.

It is every one of these programs, told apart by the name it is called by. Lines of the file $LOG read "MACHINE: CALL".
Needs no package, so that it starts fast.
"""

import os
import signal
import socket
import subprocess
import sys
import time

name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]  # noqa: PTH119
machine = os.environ.get("MACHINE", "here")
call = " ".join([name, *arguments])


def log(text: str) -> None:
    with open(os.environ["LOG"], "a") as file:  # noqa: PTH123
        file.write(f"{machine}: {text}\n")


def exit_as_asked() -> None:
    """End with $STATUS if the call is one of those that $FAILING names, separated by semicolons."""
    for failing in filter(None, os.environ.get("FAILING", "").split(";")):
        if f"{machine}: {call}".startswith(failing):
            sys.exit(int(os.environ["STATUS"]))


def ssh() -> None:
    """Run the command in a shell, as another machine that knows nothing of this one's environment."""
    host, command = arguments[-2:]
    environment = {"PATH": os.environ["OUTSIDE"], "MACHINE": host}
    environment |= {
        key: os.environ[key]
        for key in ("LOG", "OUTSIDE", "FAILING", "STATUS", "HANGING")
        if key in os.environ
    }
    sys.exit(subprocess.run(["sh", "-c", command], env=environment, check=False).returncode)


def srun() -> None:
    """Become the command, as the machines of --nodelist."""
    options = [word for word in arguments if word.startswith("--")]
    command = arguments[next(i for i, word in enumerate(arguments) if not word.startswith("--")) :]
    (nodes,) = (word.partition("=")[2] for word in options if word.startswith("--nodelist="))
    os.execvpe(command[0], command, os.environ | {"MACHINE": nodes})


def ray() -> None:
    log(call)
    if arguments[0] == "start":
        with open(os.environ["LOG"] + ".tokens", "a") as file:  # noqa: PTH123
            file.write(f"{os.environ['RAY_AUTH_MODE']} {os.environ['RAY_AUTH_TOKEN']}\n")
    exit_as_asked()
    if "--head" in arguments and "HEAD" in os.environ:
        print(f"\x1b[37mLocal node IP\x1b[39m: \x1b[1m{os.environ['HEAD']}\x1b[22m")
    if f"{machine}: {call}".startswith(os.environ.get("HANGING", "nothing")):
        time.sleep(60)
    if "--block" in arguments:
        ended = False

        def end(number: int, frame: object) -> None:
            nonlocal ended
            ended = True

        signal.signal(signal.SIGTERM, end)
        port = next((int(word.partition("=")[2]) for word in arguments if word.startswith("--port=")), 0)
        with socket.create_server(("", port)):
            while not ended:
                time.sleep(0.02)
        log("ray ended")


def reasoner_rl() -> None:
    """Show a recipe of $NODES machines, or of the number that the last cluster.nodes=N says; train.

    Training lasts until a signal comes, where $UNTIL_SIGNAL is set; the first one asks to save, which takes a moment.
    """
    log(call)
    exit_as_asked()
    if arguments[:2] == ["config", "show"]:
        nodes = [word.partition("=")[2] for word in arguments if word.startswith("cluster.nodes=")]
        print("cluster:", f"  nodes: {nodes[-1] if nodes else os.environ.get('NODES', 1)}", sep="\n")
        print("  deadlines:", "    start: 1800.0", sep="\n")
        if apart := os.environ.get("APART"):
            print(
                "  generation:", f"    nodes: {apart}", "    workers_per_node: 8", "  device: gpu", sep="\n"
            )
    if arguments[0] == "train" and "UNTIL_SIGNAL" in os.environ:
        asked: list[str] = []

        def ask(number: int, frame: object) -> None:
            asked.append(signal.Signals(number).name)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, ask)
        log("driver is ready")
        while not asked:
            time.sleep(0.02)
        time.sleep(0.5)
        log(f"driver saved after {' '.join(asked)}")
        sys.exit(130)


def tell(answers: dict[str, str]) -> None:
    answer = answers.get(" ".join(arguments))
    sys.exit(2) if answer is None else print(answer)


PROGRAMS = {
    "ssh": ssh,
    "srun": srun,
    "ray": ray,
    "reasoner-rl": reasoner_rl,
    "scontrol": lambda: tell({"show hostnames n[1-3]": "n1\nn2\nn3"}),
    "nvidia-smi": lambda: tell({"-L": "GPU 0: H100\nGPU 1: H100"}),
    "getent": lambda: tell({"ahostsv4 alias": "10.0.0.1  STREAM alias\n10.0.0.1  DGRAM"}),
    # To a client, 0.0.0.0 is this machine; unlike 127.0.0.1 it does not look so.
    "hostname": lambda: tell(
        {
            "": "h1",
            "-s": "h1",
            "-f": "h1.cluster",
            "-I": "10.0.0.1 fd00::1",
            "--ip-address": "fe80::1 127.0.1.1",
            "--all-ip-addresses": "0.0.0.0 10.9.9.9",
        }
    ),
}
PROGRAMS[name]()

"""python -m scheduler [--once] | simulate TRACE … | replay TRACE … | demo-city

Without arguments: wait to be the active scheduler of this database, then work until SIGTERM. Exit codes: 0 after an
orderly stop, 1 when something was left undone, 2 for what the person who starts it can mend, 70 when cycles stopped
(the watchdog), 75 when another scheduler took over.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import sqlalchemy as sa

from compute_portal import clock, schema
from compute_portal.db import Database
from compute_portal.policy import PolicyError, load_policy
from config.logs import configure_logs
from config.settings import Settings, SettingsError, load_settings
from config.systemd import tell_systemd
from scheduler import metrics
from scheduler.access_hook import AccessHook
from scheduler.context import open_context
from scheduler.leader import Leader, LostLeadership, Watchdog
from scheduler.post import post_of
from scheduler.timetable import Timetable, entries, run_once

log = logging.getLogger("scheduler")
# So many cycles may fail to come, and at least this long, before the watchdog ends the process.
CYCLES, LEAST_SECONDS = 12, 60


class CannotStart(Exception):
    """One sentence for the person who starts the process."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scheduler",
        epilog="`simulate --help` says how to run a trace in virtual time, `replay --help` how to run it through the "
        "planner alone; `demo-city` fills an empty database.",
    )
    parser.add_argument("--once", action="store_true", help="do what is due now, then end")
    try:
        if argv[:1] == ["simulate"]:
            return _simulate(argv[1:])
        if argv[:1] == ["replay"]:
            return _replay(argv[1:])
        if argv[:1] == ["demo-city"]:
            return _demo_city(load_settings())
        return _run(load_settings(), once=parser.parse_args(argv).once)
    except (SettingsError, PolicyError, CannotStart) as error:
        print(error, file=sys.stderr)
        return 2
    except LostLeadership as lost:
        return int(lost.code or 1)


def _simulate(argv: Sequence[str]) -> int:
    """Loaded only when asked for: the service does not need it."""
    policy = load_policy(load_settings().policy_file)
    simulate = importlib.import_module("scheduler.simulate")
    _look_for_garbage_less_often()
    return int(simulate.main(list(argv), policy=policy))


def _replay(argv: Sequence[str]) -> int:
    """The planner alone: no database, and none of the settings but where the policy file is."""
    policy = load_policy(load_settings().policy_file)
    replay = importlib.import_module("scheduler.replay")
    _look_for_garbage_less_often()
    return int(replay.main(list(argv), policy=policy))


def _demo_city(settings: Settings) -> int:
    """Fill an empty database with the demo city; one that holds anything is left alone."""
    demo = importlib.import_module("scheduler.demo")
    if not settings.demo_allowed:
        raise CannotStart("Production takes no demo city.")
    policy = load_policy(settings.policy_file)
    configure_logs("demo-city", "WARNING")
    database = Database(settings.database_url, durable=False)  # cut off half-way, it is deleted and made again
    _must_be_migrated(database)
    if demo.is_empty(database):
        demo.build(database, policy, clock.now())
    database.dispose()
    return 0


def _run(settings: Settings, *, once: bool) -> int:
    policy = load_policy(settings.policy_file)
    configure_logs("scheduler", settings.log_level)
    stopping = _stop_on_signals()
    database = Database(settings.database_url)
    _must_be_migrated(database)
    leader = Leader(database)
    stop_metrics = _serve_metrics(settings.scheduler_metrics_port) if not once else _nothing
    if once:
        if not leader.take(clock.now()):
            raise CannotStart("Another scheduler is active on this database; stop it first, or leave the work to it.")
    elif not _wait_to_lead(leader, stopping):
        stop_metrics()
        return 0
    metrics.LEADS.set(1)
    seconds = policy.bookings.access_hook_seconds
    argv = settings.access_hook_argv
    # One that runs once waits for its answers; one that stays comes back for them.
    access = AccessHook(argv, seconds=seconds, clock=clock.now, patience=seconds if once else 1.0) if argv else None
    watchdog = Watchdog(max(CYCLES * policy.queue.cycle_seconds, LEAST_SECONDS))
    context = open_context(database, leader, policy, access=access, post=post_of(settings), alive=watchdog.alive)
    try:
        if once:
            return 0 if run_once(context, clock.now()) else 1
        watchdog.start()
        _look_for_garbage_less_often()
        Timetable(context, entries(policy), stopping).run()
        return 0
    finally:
        if access is not None:
            access.close()
        leader.release()
        stop_metrics()
        database.dispose()


def _look_for_garbage_less_often() -> None:
    """What is loaded by now stays as long as the process. A cycle makes thousands of objects, and Python would look
    through everything again after every few hundred."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _must_be_migrated(database: Database) -> None:
    """Raises CannotStart with the fix."""
    file = database.url.database if database.url.get_backend_name() == "sqlite" else None
    fix = "run `flask --app wsgi migrate` first"
    if file is not None and not Path(file).exists():
        raise CannotStart(f"There is no database at {file}: {fix}.")
    try:
        with database.engine.connect() as connection:
            current = schema.current(connection)
    except sa.exc.OperationalError as error:
        raise CannotStart(f"The database cannot be reached: {str(error.orig).splitlines()[0]}") from None
    if current != schema.newest():
        raise CannotStart(f"The database is at revision {current or 'none'}, this code needs {schema.newest()}: {fix}.")


def _serve_metrics(port: int) -> Callable[[], None]:
    """Before this process leads: one that waits is to be seen too. Raises CannotStart when the port is taken."""
    if not port:
        return _nothing
    try:
        return metrics.serve(port)
    except OSError as error:
        raise CannotStart(
            f"PORTAL_SCHEDULER_METRICS_PORT: port {port} cannot be used ({error.strerror}); choose another."
        ) from None


def _nothing() -> None:
    """What is done to end metrics that nobody asked for."""


def _stop_on_signals() -> threading.Event:
    """Set by SIGTERM and SIGINT; what is under way is finished first."""
    stopping = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stopping.set()  # and nothing else: it may interrupt whatever the main thread is writing

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return stopping


def _wait_to_lead(leader: Leader, stopping: threading.Event) -> bool:
    """Look every second. False when it is to stop."""
    tell_systemd("READY=1")
    said = False
    while not stopping.is_set():
        if leader.take(clock.now()):
            return True
        if not said:
            log.info("another scheduler is active, waiting")
            said = True
        tell_systemd("WATCHDOG=1")
        stopping.wait(1)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

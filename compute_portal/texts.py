"""The English text of every Sentence. The Chinese stands in `translations/zh_Hans/sentences.po`.

A placeholder may name its kind, so that the number is written for the reader: `{needed:hours}` GPU-seconds as
GPU-hours, `{at:time}` an instant, `{last:day}` a date, `{n:count}` an integer, `{before:money}` micro-yuan,
`{month:month}` a billing month, `{kind:word}` a word of `language.WORDS`. A pair is (singular, plural), chosen by `n`.
"""

from __future__ import annotations

CATALOGUE: dict[str, str | tuple[str, str]] = {
    # everywhere
    "not-allowed": "Your role does not allow this.",
    "no-such-move": "This {kind:word} is already further on; what you asked for no longer applies.",
    "moved-meanwhile": "Somebody else changed this {kind:word} a moment ago. Look at it again, then decide.",
    "not-your-own": "You cannot decide on your own request; another operator decides.",
    "bureau-or-enterprise": "A person is either with the bureau or with companies, not both.",
    "already-asked": "An instruction for this node already waits for the scheduler.",
    "decline-needs-reason": "Give a reason; the company reads it.",
    # allocations
    "enterprise-not-verified": "Your company is not verified yet; requests and bookings open after that.",
    "programme-has-no-such-pool": "This programme does not award hours in that pool. Choose another pair.",
    "programme-gives-at-most": "This programme gives at most {most:hours} GPU-hours; you asked for {asked:hours}.",
    "programme-ends": "The programme ends on {last:day}; choose an end on or before that day.",
    "starts-too-early": "The first possible day is {first:day}.",
    "end-day-before-start": "The end is before the start, {start:day}.",
    "asked-hours": "{hours:hours} GPU-hours asked for",
    "awarded-hours": "{hours:hours} GPU-hours awarded of {asked:hours} asked",
    "award-more-than-asked": "Award between one GPU-second and the {asked:hours} GPU-hours that were asked for.",
    "award-less-needs-reason": "You award less than asked: give the reason; the company reads it.",
    "pool-too-small": "The programme has {left:hours} GPU-hours left; {asked:hours} cannot be awarded.",
    "period-is-over": "The period asked for ended on {last:day}; a new request is needed.",
    "not-ended-yet": "The allocation runs until {last:day}.",
    "allocation-requested": "The request for {hours:hours} GPU-hours is submitted. Its page shows when it is decided.",
    "allocation-approved": "{hours:hours} GPU-hours are awarded and can be booked from now on.",
    "allocation-declined": "The request is declined; the company reads your reason.",
    "allocation-withdrawn": "The request is withdrawn. You can make another one at any time.",
    "programme-funded": "{hours:hours} GPU-hours are added to the programme.",
    # bookings
    "needs-more-hours": "This booking needs {needed:hours} GPU-hours; {available:hours} are left. "
    "Ask for fewer cards or hours, or request more.",
    "allocation-not-active": "This allocation cannot be used now. Choose another one.",
    "at-least-one-card": "Book at least one card.",
    "more-than-the-pool": "The pool has {capacity:count} cards; you asked for {asked:count}.",
    "over-the-limit": "Your company may use {limit:count} cards of this pool at once; you asked for {asked:count}.",
    "over-the-limit-then": "Your company may use {limit:count} cards of this pool at once and has booked {used:count} "
    "in this window; this booking needs {asked:count}.",
    "whole-nodes-only": "This pool gives whole nodes of {per_node:count} cards; ask for a multiple of that.",
    "on-the-hour": "Fixed bookings start and end on the full hour.",
    "start-is-past": "The start must be in the future.",
    "ends-before-start": "The end must be after the start.",
    "window-too-long": (
        "A fixed booking lasts at most {n:count} day.",
        "A fixed booking lasts at most {n:count} days.",
    ),
    "beyond-the-horizon": (
        "You can book {n:count} week ahead, until {last:time}.",
        "You can book {n:count} weeks ahead, until {last:time}.",
    ),
    "before-the-allocation": "The allocation begins on {first:day}; choose a start on or after that day.",
    "after-the-allocation": "The allocation ends on {last:day}; this window runs longer.",
    "run-past-allocation": "The allocation ends on {last:day}; a run this long would not end in time.",
    "too-many-fixed": "You may have {most:count} fixed bookings open and have {open:count}. "
    "Wait until one starts, or choose “As soon as possible”.",
    "run-too-short": (
        "The longest run is at least {n:count} minute.",
        "The longest run is at least {n:count} minutes.",
    ),
    "run-too-long": ("The longest run is at most {n:count} hour.", "The longest run is at most {n:count} hours."),
    "fixed-share-full": "At most {percent:count}% of the pool, {most:count} cards, may be booked for fixed hours; "
    "{fixed:count} are taken in this window and you asked for {asked:count}.",
    "no-room": "No window in the coming weeks has {asked:count} cards free together; "
    "{free:count} are free from {at:time}.",
    "no-room-but-later": "From {at:time} only {free:count} of {asked:count} cards are free throughout. "
    "The closest window begins {later:time}.",
    "no-price": "The pool has no price yet, so it cannot be booked.",
    "price-changed": "The price changed from {before:money} to {after:money} while you were deciding. "
    "Check it and book again.",
    "held-hours": "{held:hours} GPU-hours held, {left:hours} left",
    "approved-by-rule": "Up to {threshold:hours} GPU-hours: approved automatically",
    "too-soon-to-decide": (
        "Above {threshold:hours} GPU-hours an operator decides first. "
        "Choose a start more than {n:count} hour from now.",
        "Above {threshold:hours} GPU-hours an operator decides first. "
        "Choose a start more than {n:count} hours from now.",
    ),
    "nobody-decided": "Nobody decided in time; all hours were released",
    "booking-has-started": "This booking has started; stop it instead of cancelling.",
    "booking-not-started": "This booking has not started; cancel it instead of stopping.",
    "claim-needs-running": "You can start using it once it runs.",
    "allocation-ended": "The allocation ended on {last:day}",
    # at the engine
    "placed-on": ("{cards:count} cards on {n:count} node", "{cards:count} cards on {n:count} nodes"),
    "settled-hours": "{used:hours} GPU-hours charged, {back:hours} released",
    "window-missed": "The window passed while the scheduler was away; nothing is charged",
    "node-down": "Node {node} failed",
    "hook-failed": "Access could not be given ({tries:count} tries)",
    "engine-lost": "The engine no longer knows this attempt",
    "over-before-access": "It was over before access could be given; nothing is charged for it",
    "set-aside": "Set aside after {tries:count} tries: {error}",
    "stopped": "Stopped",
    "nothing-to-stop": "It had already ended",
    "drained": "Draining: finishes what runs, takes nothing new",
    "resumed": "Back in service",
    "instruction-failed": "The cluster did not do it: {error}",
    # why a booking waits
    "wait-limit": "Your company may use {limit:count} cards of this pool at once and is using {used:count}; "
    "this booking needs {asked:count}.",
    "wait-limit-booked": "Your company may use {limit:count} cards of this pool at once, is using {used:count} and has "
    "booked {booked:count} for fixed hours during this run; this booking needs {asked:count}.",
    "wait-cards": "It needs {asked:count} cards; at most {free:count} are free together.",
    "wait-nodes": "It needs {asked:count} whole nodes and {free:count} are free.",
    "wait-ahead": (
        "{n:count} booking is ahead: its company used less of its share of late, or it asked earlier.",
        "{n:count} bookings are ahead: their companies used less of their shares of late, or they asked earlier.",
    ),
    "wait-fixed": "A confirmed booking takes these cards at {at:time}, too soon for {hours:count} hours.",
    "wait-maintenance": "The pool is in maintenance until {until:time}; the order stays as it is.",
    "wait-not-before": "It was asked to start no earlier than {at:time}.",
    "wait-allocation-ends": "The allocation ends {ends_at:time}; a run this long would not end in time.",
    "wait-hours": "It needs {needed:hours} GPU-hours; {available:hours} are left.",
    "wait-too-large": "It needs {asked:count} cards; the pool has {capacity:count} in service.",
    "wait-nodes-down": "Its nodes are out of service and no others are free; it starts as soon as they are.",
    "wait-access": "The cards are its own; access is being given.",
    # pools
    "tariff-needs-future": "A price can only change from {first:day} on; earlier days are already charged.",
    "tariff-day-taken": "There is already a price from {day:day} on.",
    "maintenance-nodes": "Choose at least one node of this pool.",
    "maintenance-clashes": (
        "{n:count} booking uses these nodes in that window. Choose other nodes or another time.",
        "{n:count} bookings use these nodes in that window. Choose other nodes or another time.",
    ),
    "maintenance-planned": (
        "{n:count} node is closed from {start:time} until {end:time}.",
        "{n:count} nodes are closed from {start:time} until {end:time}.",
    ),
    "maintenance-cancelled": "The maintenance window is cancelled; its nodes may be booked.",
    "not-node-numbers": "Write numbers and ranges like {example}, or “all”.",
    "node-number-too-large": "The nodes of this pool are numbered 1 to {last:count}.",
    "asked-the-scheduler": "The scheduler is asked and answers in its next round; the answer stands below.",
    "tariff-set": "{pool} costs {price:money} per GPU-hour from {day:day} on.",
    # usage and statements
    "month-not-over": "{month:month} is not over yet.",
    "metering-incomplete": (
        "Metering of {n:count} booking is incomplete for {month:month}.",
        "Metering of {n:count} bookings is incomplete for {month:month}.",
    ),
    "closed-lines": ("{n:count} line, {amount:money} before tax", "{n:count} lines, {amount:money} before tax"),
    "correct-too-much": "At most {left:hours} GPU-hours of this charge can be given back; you asked for {asked:hours}.",
    # forms
    "not-a-number": "Enter a number, for example {example}.",
    "not-a-whole-number": "Enter a whole number, for example {example}.",
    "not-an-instant": "Enter date and time like {example}.",
    "not-a-date": "Enter a date like {example}.",
    "required": "This is needed.",
    "too-long": "At most {n:count} characters.",
    "not-a-choice": "Choose one of the list.",
    # signing in, passwords and keys
    "sign-in-wrong": "E-mail and password do not fit together.",
    "sign-in-paused": "Too many wrong passwords. Sign-in is paused for {minutes:count} minutes.",
    "signed-out": "You are signed out.",
    "password-too-short": "Use at least {least:count} characters.",
    "password-too-long": "Use at most {most:count} characters.",
    "password-common": "This password is on the lists that attackers try first. Choose another one.",
    "password-own-name": "Do not use your own name or address as the password.",
    "password-current-wrong": "This is not your current password.",
    "password-changed": "The password is changed. You are signed out everywhere else.",
    "email-taken": "Somebody with this e-mail address is registered already.",
    "role-not-bureau": "Members of companies get their role from the company.",
    "key-is-private": "This is the private half of a key. Keep it to yourself and paste the .pub file; "
    "if you have sent it to anybody, make a new key.",
    "key-not-one-line": "A public key is one line, as in the .pub file.",
    "key-unknown-type": "Use an Ed25519, ECDSA or RSA key; the line begins with its type, for example ssh-ed25519.",
    "key-damaged": "This key is damaged; copy the whole line again.",
    "key-rsa-size": "This RSA key has {bits:count} bits; use one with {least:count} to 16,384.",
    "key-already-there": "This key is on your list already, as {name}.",
    "key-too-many": "You have {most:count} keys, which is the most. Remove one first.",
    "key-added": "The key {name} is added. It is put on the nodes of bookings that start from now on.",
    "key-removed": "The key {name} is removed. Bookings that run keep it until they end.",
}

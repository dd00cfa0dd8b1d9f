#!/usr/bin/env python3
"""Verifies a receipt of Colophon offline.

    python3 examples/verify.py RECEIPT --key KEYFILE [--policy FILE]

The program follows docs/receipts.md and shares no code with `colophon verify`. It needs Python 3.9
or later and the openssl program, version 3, which verifies the Ed25519 signatures.
Exit status: 0 proven, 1 refuted, 2 cannot tell, 64 wrong usage.
"""

import argparse
import base64
import calendar
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse
from typing import Any, NamedTuple, NoReturn, Optional

FORMAT = "colophon-receipt/1"
MAX_RECEIPT = 64 << 20  # bytes
LATEST_SCHEMA = 2


class Refuted(Exception):
    """The receipt contradicts itself or the log."""


class CannotTell(Exception):
    """Nothing is wrong, but something is missing for a proof."""


class Key(NamedTuple):
    name: str
    id: bytes  # the first four bytes of signatures by this key
    raw: bytes  # Ed25519 public key


# Section "Encodings": JSON, integers, base64 and hashes.


class Number(str):
    """A JSON number as it is written."""


def unique(pairs: list) -> dict:
    """Refuses an object that repeats a name."""
    members = {without_surrogates(name): value for name, value in pairs}
    if len(members) != len(pairs):
        raise ValueError("a member is repeated")
    return members


def no_constant(name: str) -> NoReturn:
    raise ValueError(name + " is not JSON")


def read_json(text: str, pairs_hook: Any) -> Any:
    return json.loads(text, object_pairs_hook=pairs_hook, parse_int=Number, parse_float=Number, parse_constant=no_constant)


def without_surrogates(text: str) -> str:
    """Replaces escapes such as \\ud800 that stand for no character."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def integer(text: Any) -> Optional[int]:
    """Reads a decimal integer of 64 bits in its only spelling."""
    if not isinstance(text, str) or not re.fullmatch("0|-?[1-9][0-9]{0,18}", text):
        return None
    return int(text) if -(1 << 63) <= int(text) < 1 << 63 else None


def loose_base64(text: str) -> Optional[bytes]:
    """Decodes base64 of the standard alphabet with padding."""
    if not re.fullmatch("(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?", text):
        return None
    return base64.b64decode(text)


def strict_base64(text: str) -> Optional[bytes]:
    """Decodes base64 in its only spelling."""
    raw = loose_base64(text)
    return raw if raw is not None and base64.b64encode(raw).decode() == text else None


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


# Section "The document".


def malformed(why: str) -> CannotTell:
    return CannotTell(f"not a receipt of the format {FORMAT}: {why}")


def members_of(value: Any, required: set, optional: frozenset = frozenset()) -> dict:
    """Returns an object that has all required members and no unknown one."""
    if not isinstance(value, dict) or not required <= set(value) <= required | optional:
        raise malformed("an object has other members than the format")
    return value


def typed(value: Any, kind: Any, name: str) -> Any:
    """Returns a value of a type. null stands for an empty array or object."""
    value = kind() if value is None and kind in (list, dict) else value
    if not isinstance(value, kind) or isinstance(value, Number):
        raise malformed(f"{name} has another type")
    return without_surrogates(value) if kind is str else value


def bytes_of(value: Any, name: str) -> bytes:
    """Decodes a base64 member. null stands for no bytes."""
    raw = b"" if value is None else strict_base64(typed(value, str, name))
    if raw is None:
        raise malformed(f"{name} is not in base64")
    return raw


def by_version(value: Any, name: str) -> dict:
    """Reads an object whose names are versions."""
    result = {integer(key): item for key, item in typed(value, dict, name).items()}
    if None in result:
        raise malformed(f"a name in {name} is not a version")
    return result


def read_opening(value: Any) -> tuple:
    o = members_of(value, {"blinding", "value"})
    return bytes_of(o["blinding"], "blinding"), bytes_of(o["value"], "value")


def read_proof(value: Any) -> tuple:
    p = members_of(value, {"index", "hashes"})
    index = integer(p["index"]) if isinstance(p["index"], Number) else None
    hashes = [b"" if h is None else bytes_of(h, "hashes") for h in typed(p["hashes"], list, "hashes")]
    if index is None or any(len(h) != 32 for h in hashes):
        raise malformed("a proof has no index, or a hash is not 32 bytes")
    return index, hashes


def read_document(data: bytes) -> dict:
    """Reads a receipt strictly and decodes its parts."""
    if len(data) > MAX_RECEIPT:
        raise malformed("it is too long")
    try:
        text = data.decode("utf-8")
        document = read_json(text, unique)
    except ValueError as e:
        raise malformed(str(e)) from None
    if re.search(r'"hashes"\s*:\s*\[[^\]]*\\', text):
        raise malformed("a hash has an escape")
    r = members_of(document, {"format", "job", "events", "proofs", "checkpoint", "log_keys"}, frozenset({"openings"}))
    if typed(r["format"], str, "format") != FORMAT:
        raise malformed("another format")
    if "openings" in r and not r["openings"]:
        raise malformed("openings is empty instead of left out")
    openings = by_version(r.get("openings"), "openings")
    return {
        "job": typed(r["job"], str, "job"),
        "events": [bytes_of(e, "events") for e in typed(r["events"], list, "events")],
        "openings": {v: {name: read_opening(o) for name, o in typed(names, dict, "openings").items()} for v, names in openings.items()},
        "proofs": {v: read_proof(p) for v, p in by_version(r["proofs"], "proofs").items()},
        "checkpoint": typed(r["checkpoint"], str, "checkpoint"),
        "log_keys": [typed(k, str, "log_keys") for k in typed(r["log_keys"], list, "log_keys")],
    }


# Section "Canonical JSON".


def spell_text(text: str) -> str:
    text = json.dumps(text, ensure_ascii=False)  # escapes the quote, the backslash and control characters
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def spell(value: Any) -> str:
    """Returns the canonical spelling of a value."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str):
        return spell_text(value)
    if isinstance(value, list):
        return "[" + ",".join(spell(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(spell_text(name) + ":" + spell(value[name]) for name in sorted(value)) + "}"
    return {None: "null", True: "true", False: "false"}[value]


def lower_case(value: Any) -> bool:
    """Reports whether all names of members are ASCII without upper-case letters."""
    if isinstance(value, dict):
        return all(name.isascii() and name == name.lower() and lower_case(item) for name, item in value.items())
    return not isinstance(value, list) or all(lower_case(item) for item in value)


def read_canonical(data: bytes) -> tuple:
    """Returns a value, and whether the bytes are its canonical spelling."""
    try:
        value = read_json(data.decode("utf-8", "replace"), dict)
    except ValueError:
        return None, False
    return value, spell(value).encode("utf-8", "surrogatepass") == data


# Section "The payload of an event".

TEXTS, INTEGERS = ("at", "owner", "prev", "stream", "type"), ("schema", "version")


def has_types(e: Any) -> bool:
    """Reports whether the known members of a payload have their types. null is of every type."""
    if not isinstance(e, dict):
        return False
    commit = {} if e.get("commit") is None else e["commit"]
    texts = [e.get(name) for name in TEXTS] + (list(commit.values()) if isinstance(commit, dict) else [Number()])
    numbers = [e[name] for name in INTEGERS if e.get(name) is not None]
    return all(t is None or (isinstance(t, str) and not isinstance(t, Number)) for t in texts) and all(
        isinstance(n, Number) and integer(n) is not None for n in numbers)


def is_time(text: str) -> bool:
    """Reports whether a text is a time in UTC with six decimals."""
    found = re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})\.[0-9]{6}Z", text)
    if not found:
        return False
    year, month, day, hour, minute, second = map(int, found.groups())
    return 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1] and hour < 24 and minute < 60 and second < 60


def read_event(payload: bytes, number: int) -> dict:
    e, canonical = read_canonical(payload)
    bad = Refuted(f"event {number}: not the payload of an event in its canonical form")
    if not canonical or not isinstance(e, dict) or not lower_case(e):
        raise bad
    schema = integer(e["schema"]) if isinstance(e.get("schema"), Number) else None
    if schema is not None and schema > LATEST_SCHEMA:
        raise CannotTell(f"event {number}: a later version of the program wrote the event: it has schema {schema}")
    if not has_types(e):
        raise bad
    version = integer(e.get("version"))
    required = {"at", "fact", "schema", "stream", "type", "version"}
    if not required <= set(e) <= required | {"commit", "owner", "prev"}:
        raise bad
    if any(e[name] in (None, "", {}) for name in e if name in ("commit", "owner", "prev")) or None in (e["at"], e["stream"], e["type"]):
        raise bad
    if schema is None or schema < 1 or version is None or version < 1 or not is_time(e["at"]):
        raise bad
    if ("owner" in e) != (schema == 1) or ("prev" in e) != (schema > 1 and version > 1) or ("commit" in e and schema == 1):
        raise bad
    if not all(re.fullmatch("[0-9a-f]{64}", c or "") for c in e.get("commit", {}).values()):
        raise bad
    return {**e, "schema": schema, "version": version}


# Section "The chain of events".


ERASED = "job.erased"  # the service has erased the secret members of an ended job


def ends(e: dict) -> bool:
    """Reports whether no event can follow, except one of the type ERASED."""
    final = isinstance(e["fact"], dict) and e["fact"].get("final") is True
    return e["type"] in ("job.completed", "job.cancelled", ERASED) or (e["type"] == "job.failed" and final)


def check_events(receipt: dict) -> list:
    events: list = []
    for i, payload in enumerate(receipt["events"]):
        e = read_event(payload, i + 1)
        if e["stream"] != "job/" + receipt["job"] or e["version"] != i + 1:
            raise Refuted(f"event {i + 1} is event {e['version']} of {e['stream']}")
        if (i == 0) != (e["type"] == "job.accepted"):
            raise Refuted(f"event {i + 1} is {e['type']}")
        if i > 0 and (events[-1]["type"] == ERASED or (ends(events[-1]) and e["type"] != ERASED)):
            raise Refuted(f"event {i + 1} follows the end of the job")
        if i > 0 and e["type"] == ERASED and not ends(events[-1]):
            raise Refuted(f"event {i + 1} erases a job that has not ended")
        if i > 0 and e["schema"] < events[-1]["schema"]:
            raise Refuted(f"event {i + 1} has an older schema than the event before it")
        if i > 0 and e["schema"] > 1 and e["prev"] != sha256(receipt["events"][i - 1]).hex():
            raise Refuted(f"event {i + 1} does not follow the event before it")
        events.append(e)
    if not events:
        raise Refuted("it has no events")
    return events


# Section "Commitments and openings".


def commitment(e: dict, name: str, blinding: bytes, value: bytes) -> str:
    data = b"colophon/commit/1"
    texts = (e["stream"], str(e["version"]), e["type"], name)
    for part in [text.encode() for text in texts] + [blinding, value]:
        data += len(part).to_bytes(8, "big") + part
    return sha256(data).hex()


def check_openings(receipt: dict, events: list) -> dict:
    """Returns the values that are shown, by version and name."""
    opened: dict = {}
    for version, members in receipt["openings"].items():
        if not 1 <= version <= len(events) or not members:
            raise Refuted(f"it opens members of event {version}, which has none")
        e = events[version - 1]
        for name, (blinding, raw) in members.items():
            value, canonical = read_canonical(raw)
            recorded = e.get("commit", {}).get(name)
            if len(blinding) != 32 or not canonical or not lower_case(value) or commitment(e, name, blinding, raw) != recorded:
                raise Refuted(f"event {version}: the value of {json.dumps(name[:50])} is not the recorded one")
            opened.setdefault(version, {})[name] = value
    return opened


# Section "Keys and signatures".

WHITE_SPACE_OR_PLUS = "[+\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"


def is_name(name: str) -> bool:
    return name != "" and not re.search(WHITE_SPACE_OR_PLUS, name)


def read_key(text: str, algorithm: int) -> Key:
    """Reads NAME+HASH+KEY: algorithm 1 is a log's key, and 4 is a witness's."""
    name, _, rest = text.partition("+")
    id_hex, _, encoded = rest.partition("+")
    raw = strict_base64(encoded)
    if not is_name(name) or raw is None or len(raw) != 33 or raw[0] != algorithm:
        raise ValueError("not a key in the form NAME+HASH+KEY")
    if algorithm == 4 and re.search("[\x00-\x1f\x7f-\x9f]", name):
        raise ValueError("the name of a witness has a control character")
    key_id = sha256(name.encode() + b"\n" + raw)[:4]
    if key_id.hex() != id_hex:
        raise ValueError("the hash of a key is wrong")
    return Key(name, key_id, raw[1:])


def ed25519(key: bytes, message: bytes, signature: bytes) -> bool:
    """Verifies an Ed25519 signature with the openssl program."""
    if len(signature) != 64:
        return False
    der = bytes.fromhex("302a300506032b6570032100") + key
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.b64encode(der) + b"\n-----END PUBLIC KEY-----\n"
    with tempfile.TemporaryDirectory() as directory:
        paths = [os.path.join(directory, name) for name in ("key.pem", "message", "signature")]
        for path, content in zip(paths, (pem, message, signature)):
            with open(path, "wb") as file:
                file.write(content)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", paths[0], "-rawin", "-in", paths[1], "-sigfile", paths[2]]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        except OSError as e:
            raise CannotTell(f"the openssl program does not run: {e}") from None
    if done.returncode != 0 and b"Signature Verification Failure" not in done.stdout:
        raise CannotTell("the openssl program cannot verify Ed25519 signatures")
    return done.returncode == 0


# Section "The checkpoint".


class Signature(NamedTuple):
    name: str
    raw: bytes  # key id, then the signature itself
    text: str  # base64

    def by(self, key: Key) -> bool:
        return self.name == key.name and self.raw[:4] == key.id


def split_note(signed: str) -> tuple:
    """Returns the text of a signed note and its signatures."""
    text, blank, block = signed.rpartition("\n\n")
    if re.search("[\x00-\x09\x0b-\x1f]", signed) or not blank or not block.endswith("\n") or block.count("\n") > 100:
        raise Refuted("the checkpoint is malformed")
    signatures = []
    for line in block[:-1].split("\n"):
        name, _, encoded = line[2:].partition(" ")
        raw = loose_base64(encoded)
        if not line.startswith("— ") or not is_name(name) or raw is None or len(raw) < 5:
            raise Refuted("a signature of the checkpoint is malformed")
        signatures.append(Signature(name, raw, encoded))
    return text + "\n", signatures


def verify_signatures(text: str, signatures: list, keys: list) -> tuple:
    """Returns the valid signatures of the log, and the signatures of unknown keys."""
    by_log: list = []
    others: list = []
    for s in signatures:
        signers = [key for key in keys if s.by(key)]
        if len(signers) > 1:
            raise Refuted("two keys have the same name and id")
        if any(s.name == earlier.name and s.raw[:4] == earlier.raw[:4] for earlier in by_log + others):
            raise Refuted(f"a key of {s.name} has signed the checkpoint twice")
        if not signers:
            others.append(s)
            continue
        if not ed25519(signers[0].raw, text.encode(), s.raw[4:]):
            raise Refuted(f"the signature of {s.name} is not valid")
        by_log.append(s)
    return by_log, others


MAX_SIZE = 1 << 62  # largest size of a checkpoint


def read_state(origin: str, size: str, root: str) -> Optional[tuple]:
    """Reads the three values of a checkpoint."""
    n, raw = integer(size), strict_base64(root)
    return (origin, n, raw) if n is not None and 0 <= n <= MAX_SIZE and raw is not None and len(raw) == 32 else None


def check_checkpoint(receipt: dict, trusted: list, policy: dict, missing: list) -> dict:
    trusted = trusted + policy["logs"]
    try:
        embedded = [read_key(text, 1) for text in receipt["log_keys"]]
    except ValueError as e:
        raise Refuted(f"a key of the receipt: {e}") from None
    if len(set(embedded)) < len(embedded):
        raise Refuted("a key of the receipt is repeated")
    origin = receipt["checkpoint"].partition("\n")[0]
    every = embedded + [key for key in dict.fromkeys(trusted) if key not in embedded]
    text, signatures = split_note(receipt["checkpoint"])
    by_log, others = verify_signatures(text, signatures, [key for key in every if key.name == origin])
    if not by_log:
        raise CannotTell("no key of the receipt and no trusted key has signed the checkpoint")
    lines = text[:-1].split("\n")
    state = read_state(*lines[:3]) if len(lines) >= 3 else None
    if "" in lines or state is None or any(strict_base64(s.text) is None for s in by_log + others):
        raise Refuted("the checkpoint is malformed")
    for key in embedded:
        if not any(s.by(key) for s in by_log):
            raise Refuted(f"the key {key.name}+{key.id.hex()} of the receipt has not signed the checkpoint")
    if len(by_log) > len(embedded):
        raise Refuted("a key that has signed the checkpoint is not in the receipt")
    if not any(s.by(key) for s in by_log for key in trusted):
        missing.append(f"no key that you trust has signed the checkpoint of {origin}")
    cosigned = check_cosignatures(text, others, policy, missing)
    previous = [line[9:].split(" ") for line in lines[3:] if line.startswith("previous ") and line.count(" ") == 3]
    continues = read_state(*previous[0]) if previous else None
    return {"origin": state[0], "size": state[1], "root": state[2], "cosigned": cosigned, "continues": continues}


# Section "Cosignatures and policies".


def check_cosignatures(text: str, others: list, policy: dict, missing: list) -> list:
    """Returns the witnesses that have cosigned, with the time in seconds since 1970."""
    valid: dict = {}  # the last valid cosignature of each witness
    for s in others:
        for witness in policy["witnesses"]:
            at = int.from_bytes(s.raw[4:12], "big")
            message = f"cosignature/v1\ntime {at}\n{text}".encode()
            if s.by(witness) and len(s.raw) == 76 and at < 1 << 63 and ed25519(witness.raw, message, s.raw[12:]):
                valid[witness] = (s, at)
    for s in others:
        if not any(s.by(witness) for witness in policy["witnesses"]):
            missing.append(f"the signature of {s.name} was not checked: name its key in a policy")
        elif s not in [cosignature for cosignature, _ in valid.values()]:
            raise Refuted(f"the cosignature of {s.name} is not valid")
    if not satisfied(policy["quorum"], valid):
        missing.append("the checkpoint lacks cosignatures that the policy wants")
    return sorted(((witness.name, at) for witness, (_, at) in valid.items()), key=lambda c: c[1])


def satisfied(member: Any, cosigned: dict) -> bool:
    """Reports whether the witness has, or enough members of the group have, cosigned."""
    if member is None:
        return True
    if isinstance(member, Key):
        return member in cosigned
    threshold, members = member
    return sum(satisfied(m, cosigned) for m in members) >= threshold


def check_url(args: list) -> None:
    for text in args:
        url = urllib.parse.urlsplit(text)
        if url.scheme not in ("http", "https") or not url.netloc:
            raise ValueError("want a URL that begins with https:// or http://")


def read_threshold(text: str, members: int) -> int:
    threshold = {"any": 1, "all": members}.get(text, integer(text))
    if threshold is None or not 1 <= threshold <= members:
        raise ValueError("the threshold of a group is wrong")
    return threshold


def read_policy(text: str) -> dict:
    """Reads a policy of c2sp.org/tlog-policy."""
    policy: dict = {"logs": [], "witnesses": [], "quorum": None}
    defined: dict = {"none": None}
    grouped = {"none"}
    quorums = 0
    lines = text.split("\n")
    if re.search("[\x00-\x08\x0b-\x1f\x7f]", text) or len(lines) > 1000:
        raise ValueError("a policy has no control characters and at most 1000 lines")
    for line in lines:
        kind, *args = re.findall("[^ \t]+", line) or ["#"]
        if kind.startswith("#"):
            continue
        if kind == "log" and 1 <= len(args) <= 2:
            policy["logs"].append(read_key(args[0], 1))
            check_url(args[1:])
        elif kind == "witness" and 2 <= len(args) <= 3 and args[0] not in defined:
            defined[args[0]] = read_key(args[1], 4)
            policy["witnesses"].append(defined[args[0]])
            check_url(args[2:])
        elif kind == "group" and len(args) >= 3 and args[0] not in defined:
            threshold, names = read_threshold(args[1], len(args) - 2), args[2:]
            if len(set(names)) < len(names) or any(n in grouped or n not in defined for n in names):
                raise ValueError("a member of a group is not defined, or is in two groups")
            grouped.update(names)
            defined[args[0]] = (threshold, [defined[n] for n in names])
        elif kind == "quorum" and len(args) == 1 and args[0] in defined and quorums == 0:
            policy["quorum"], quorums = defined[args[0]], 1
        else:
            raise ValueError(f"a line of the policy is wrong: {line}")
    ids = [(key.name, key.id) for key in policy["logs"]]
    keys = [key.raw for key in policy["witnesses"]]
    if quorums == 0 or len(set(ids)) < len(ids) or len(set(keys)) < len(keys):
        raise ValueError("a policy has one quorum and no key twice")
    return policy


# Section "Merkle tree and proofs".


def root_of(payload: bytes, index: int, size: int, hashes: list) -> Optional[bytes]:
    """Computes the root from an event and its audit path (RFC 9162, section 2.1.3.2)."""
    first, last = index, size - 1
    node = sha256(b"\x00" + sha256(payload))
    for h in hashes:
        if last == 0:
            return None
        if first % 2 == 1 or first == last:
            node = sha256(b"\x01" + h + node)
            while first % 2 == 0 and first != 0:
                first, last = first >> 1, last >> 1
        else:
            node = sha256(b"\x01" + node + h)
        first, last = first >> 1, last >> 1
    return node if last == 0 else None


def check_proofs(receipt: dict, events: list, checkpoint: dict) -> int:
    """Returns the index of the last event."""
    proofs, index = receipt["proofs"], -1
    for i in range(len(events)):
        needed = i == len(events) - 1 or events[i + 1]["schema"] < 2
        if needed and i + 1 not in proofs:
            raise Refuted(f"event {i + 1} has no proof that the log contains it")
    for version in sorted(proofs):
        if not 1 <= version <= len(events):
            raise Refuted(f"it has a proof of event {version}, which is missing")
        before, (index, hashes) = index, proofs[version]
        in_order = before < index < checkpoint["size"]
        if not in_order or root_of(receipt["events"][version - 1], index, checkpoint["size"], hashes) != checkpoint["root"]:
            raise Refuted(f"the log does not contain event {version} at index {index}")
    return index


# Section "Verification": the order of the checks, and the completeness of the job.


def is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)


def check_complete(events: list, opened: dict, missing: list) -> Optional[str]:
    """Returns the text of the job, or None if it is not shown."""
    if not ends(events[-1]):
        missing.append("the job had not ended at this checkpoint")
    if events[0]["schema"] < 2:
        missing.append("the job began in an early release, whose events commit to no text")
    advanced = [opened.get(e["version"], {}) for e in events if e["type"] == "job.advanced"]
    parts = [members["text"] for members in advanced if "text" in members and is_text(members["text"])]
    if any("text" in members for members in opened.values()) and len(parts) < len(advanced):
        missing.append("a part of the text is not shown")
    return "".join(parts) if len(parts) == len(advanced) else None


def verify(data: bytes, trusted: list, policy: Optional[dict] = None) -> dict:
    """Returns what a receipt proves, or raises Refuted or CannotTell."""
    missing: list = []  # reasons not to call the receipt proven, unless it is refuted
    try:
        receipt = read_document(data)
        events = check_events(receipt)
        opened = check_openings(receipt, events)
        checkpoint = check_checkpoint(receipt, trusted, policy or {"logs": [], "witnesses": [], "quorum": None}, missing)
        index = check_proofs(receipt, events, checkpoint)
        text = check_complete(events, opened, missing)
    except RecursionError:
        raise CannotTell("a value is nested too deeply for this program") from None
    if missing:
        raise CannotTell(missing[0])
    prompt = opened.get(1, {}).get("prompt")
    prompt = prompt if is_text(prompt) else None
    return {**checkpoint, "job": receipt["job"], "events": events, "index": index, "prompt": prompt, "text": text}


# The program.


def printable(text: str) -> str:
    """Escapes characters that would control a terminal."""
    return "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)


def when(seconds: int) -> str:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds after 1970"


def show(report: dict) -> None:
    """Prints what is proven."""
    print(f"Proven: the service that signs the log {printable(report['origin'])} has recorded this.")
    print(f"job: {printable(report['job'])}")
    print(f"log: {printable(report['origin'])}, {report['size']} events")
    print(f"index of the last event: {report['index']}")
    if report["continues"]:
        print(f"the log continues {printable(report['continues'][0])} after {report['continues'][1]} events")
    for name, at in report["cosigned"]:
        print(f"cosigned by {printable(name)} at {when(at)}")
    for e in report["events"]:
        print(f"event {e['version']}: {printable(e['type'])} at {e['at']}")
    fact = report["events"][0]["fact"]
    mark = fact.get("watermark") if isinstance(fact, dict) else None
    if isinstance(mark, dict):
        print(f"watermark: key {printable(str(mark.get('key')))}, {printable(str(mark.get('parameters')))}: only the holder of this key can execute the text again")
    for name in ("prompt", "text"):
        value = report[name]
        erased = report["events"][-1]["type"] == ERASED
        print(f"{name}: not shown{', the job was erased' if erased else ''}" if value is None else f"{name}: {printable(json.dumps(value, ensure_ascii=False))}")
    print("Not proven: that the times are right, and that no other log has another history of the job.")


class Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(64, f"{self.prog}: {message}\n")


def read_keys(text: str) -> list:
    keys = [read_key(line.strip(), 1) for line in text.split("\n") if line.strip()]
    if not keys:
        raise ValueError("no key")
    return keys


def main() -> int:
    arguments = Arguments(description="Verify a receipt of Colophon. Exit status: 0 proven, 1 refuted, 2 cannot tell, 64 wrong usage.")
    arguments.add_argument("receipt", metavar="RECEIPT", help="receipt, or - for standard input")
    arguments.add_argument("--key", metavar="KEYFILE", help="keys of the log, one NAME+HASH+KEY in a line, from a source that you trust")
    arguments.add_argument("--policy", metavar="FILE", help="policy of c2sp.org/tlog-policy with logs and witnesses")
    given = arguments.parse_args()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    content: dict = {}
    try:
        for path in filter(None, (given.receipt, given.key, given.policy)):
            with sys.stdin.buffer if path == "-" and path is given.receipt else open(path, "rb") as file:
                content[path] = file.read()
        keys = read_keys(content[given.key].decode("utf-8")) if given.key else []
        policy = read_policy(content[given.policy].decode("utf-8")) if given.policy else None
    except (OSError, ValueError) as e:
        arguments.error(printable(str(e)))
    try:
        show(verify(content[given.receipt], keys, policy))
    except Refuted as e:
        print(f"refuted: {printable(str(e))}", file=sys.stderr)
        return 1
    except CannotTell as e:
        print(f"cannot tell: {printable(str(e))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

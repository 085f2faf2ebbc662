"""Pseudonyms that stand for cases and patients everywhere but in the manifest."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from t2m_bench.data.case import Case
from t2m_bench.errors import DatasetError

KEY_NAME = "pseudonyms.key"
DIGITS = 12


@dataclass(frozen=True)
class Pseudonyms:
    """A keyed one-way map: who has no key cannot tell from a guessed identifier whether it is the one."""

    key: bytes

    def of(self, identifier: str, prefix: str) -> str:
        """Return the pseudonym of an identifier, such as `case-3f9a2b1c04de`."""
        digest = hmac.new(self.key, f"{prefix}:{identifier}".encode(), hashlib.sha256).hexdigest()
        return f"{prefix}-{digest[:DIGITS]}"

    def of_all(self, identifiers: Iterable[str], prefix: str) -> dict[str, str]:
        """Return identifier -> pseudonym.

        Raises:
            DatasetError: two identifiers share a pseudonym.
        """
        names = {identifier: self.of(identifier, prefix) for identifier in identifiers}
        if len(set(names.values())) < len(names):
            raise DatasetError(f"two {prefix} identifiers share a pseudonym. Remove {KEY_NAME} and prepare again.")
        return names


def load_or_create_pseudonyms(path: Path) -> Pseudonyms:
    """Read the key, or draw one that only the owner may read; of several processes one draws it.

    Raises:
        DatasetError: the file holds no key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_hex(32) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.link(partial, path)  # fails, unlike a rename, where another process was first
        except FileExistsError:
            pass
        finally:
            partial.unlink()
    try:
        key = bytes.fromhex(path.read_text(encoding="utf-8").strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise DatasetError(
            f"{path}: not a key of pseudonyms (64 hex digits). Restore it, or remove it and embed again."
        )
    return Pseudonyms(key)


def pseudonymise(cases: Iterable[Case], pseudonyms: Pseudonyms) -> list[Case]:
    """Return the cases with pseudonyms for their own and their patients' identifiers, without their source and text."""
    cases = list(cases)
    case_names = pseudonyms.of_all({case.case_id for case in cases}, "case")
    patient_names = pseudonyms.of_all({case.patient_id for case in cases}, "patient")
    return [
        replace(
            case,
            case_id=case_names[case.case_id],
            patient_id=patient_names[case.patient_id],
            source="",
            text="",
            paraphrase="",
        )
        for case in cases
    ]

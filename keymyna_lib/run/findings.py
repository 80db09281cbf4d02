"""What the paper says, and what the stored tables say of it: every number is a cell's own text.

The paper is KeyMyna, arXiv:2604.10021; its claims are put in our words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from keymyna_lib.report.intervals import NOT_RUN, UNDECIDED
from keymyna_lib.report.pages import ANSWERS
from keymyna_lib.run.stored import StoredTable

Tables = Mapping[str, StoredTable]
YES, NO = "yes", "no"


@dataclass(frozen=True)
class Found:
    """What tables say of a claim: a lead-in, cells with what they are of, the verdict, and the table of all this."""

    text: str
    cells: tuple[str, ...]
    verdict: str
    table: str


@dataclass(frozen=True)
class Finding:
    """A claim of the paper and what was found."""

    paper: str
    found: Found


def findings(tables: Tables) -> list[Finding]:
    """The paper's claims, each with what the tables of a profile say of it."""
    return [
        Finding(paper, found(tables) or Found("", (), NOT_RUN, table))
        for paper, table, found in (
            ("Masked contrastive pre-training improves key detection.", "conclusions", _objective),
            ("Pre-training lets a linear probe read the key from frozen embeddings.", "pretraining_gain", _probe),
            ("It also helps a wide MLP, with pitch shifting as its only augmentation.", "pretraining_gain", _wide_mlp),
            ("Masking is the one augmentation that makes embeddings sensitive to pitch.", "conclusions", _masking),
            ("The embeddings are robust to common changes of the audio.", "robustness", _robust),
            ("It is the state of the art on the published test sets.", "published", _published),
        )
    ]


def _records(tables: Tables, name: str, wanted: Callable[[dict[str, str]], bool]) -> list[dict[str, str]]:
    return [row for row in tables[name].records() if wanted(row)] if name in tables else []


def _tested(tables: Tables, wanted: Callable[[str], bool]) -> list[dict[str, str]]:
    """The lines of the claims that are wanted by their text, where they were tested."""
    return _records(tables, "conclusions", lambda row: wanted(row["claim"]) and answer(row["verdict"]) != NOT_RUN)


def answer(verdict: str) -> str:
    """A verdict of any table as yes, no, undecided or not run; other words stay as they are."""
    return ANSWERS.get(verdict, verdict)


def _together(verdicts: Sequence[str]) -> str:
    """The verdicts of several rows as one."""
    good, bad = (sum(answer(verdict) == kind for verdict in verdicts) for kind in (YES, NO))
    if bad:
        return "does not" if bad == len(verdicts) else f"the opposite in {bad} of {len(verdicts)}"
    if good:
        return "holds" if good == len(verdicts) else f"holds in {good} of {len(verdicts)}"
    return UNDECIDED


_STAYS = "where pieces keep their sound, there is a gain over no pre-training"
_OF_THE_OBJECTIVE = {
    "masked contrastive pre-training gains more over no pre-training where instruments, room and tuning change within "
    "a piece than where they do not": "more where the sound changes within a piece than where it stays",
    "masked contrastive pre-training beats no pre-training": "over no pre-training",
    f"{_STAYS}: masked contrastive": "over no pre-training, where pieces keep their sound",
}


def _objective(tables: Tables) -> Found | None:
    rows = _tested(tables, lambda claim: claim in _OF_THE_OBJECTIVE)
    if not rows:
        return None
    cells = tuple(
        f"{_OF_THE_OBJECTIVE[row['claim']]}, {row['labels']}: {row['evidence']}, {row['verdict']}" for row in rows
    )
    verdict = _together([row["verdict"] for row in rows])
    return Found("Points that it gains under a logistic probe:", cells, verdict, "conclusions")


def _gain(tables: Tables, head: str) -> Found | None:
    # The claims have the same differences, corrected for all that was tested: their verdict counts, where there is one.
    claim, column, table = f"under the paper's {head}, pre-training beats no pre-training", "evidence", "conclusions"
    rows = _tested(tables, lambda text: text == claim)
    if not rows:
        table = "pretraining_gain"
        rows = _records(tables, table, lambda row: row.get("head") == head)
        if not rows:
            return None
        column = next(name for name in rows[0] if name not in ("head", "labels", "verdict"))
    cells = tuple(f"{row['labels']}: {row[column]}, {row['verdict']}" for row in rows)
    verdict = _together([row["verdict"] for row in rows])
    return Found(f"Points that pre-training adds under the {head}:", cells, verdict, table)


def _probe(tables: Tables) -> Found | None:
    return _gain(tables, "linear probe")


def _wide_mlp(tables: Tables) -> Found | None:
    gain = _gain(tables, "wide MLP")
    if gain is None:
        return None
    without = _records(tables, "heads", lambda row: row.get("head") == "no pitch shift")
    cost = [
        f"without pitch shifting, {column.partition(',')[0]} encoder: {text}"
        for row in without
        for column, text in row.items()
        if "minus" in column
    ]
    # The control that learns no features, under the same head, with the fewest labels.
    scores = {row["features"]: row for row in _records(tables, "table1", lambda row: row.get("head") == "wide MLP")}
    if scores.keys() >= {"pre-trained", "chroma"}:
        fewest = list(scores["chroma"])[2]
        cost.append(f"scores, {fewest}: {scores['pre-trained'][fewest]}, on chroma {scores['chroma'][fewest]}")
    return replace(gain, cells=gain.cells + tuple(cost))


def _masking(tables: Tables) -> Found | None:
    rivals = ("bare contrastive", "augmented contrastive")
    claims = {f"masked contrastive pre-training beats {rival} at equal steps": rival for rival in rivals}
    rows = _tested(tables, lambda claim: claim in claims)
    if not rows:
        return None
    cells = tuple(f"{claims[row['claim']]}, {row['labels']}: {row['evidence']}, {row['verdict']}" for row in rows)
    verdict = _together([row["verdict"] for row in rows])
    return Found("Points that masking is ahead of other objectives at equal steps:", cells, verdict, "conclusions")


def _robust(tables: Tables) -> Found | None:
    claims = _tested(tables, lambda claim: claim.startswith("robust: "))
    if claims:
        cells = tuple(f"{row['claim'].rpartition(', ')[2]}: {row['evidence']}, {row['verdict']}" for row in claims)
        verdict = _together([row["verdict"] for row in claims])
        return Found("Against the untrained encoder, % of tracks and changes:", cells, verdict, "conclusions")
    rows = _records(tables, "robustness", lambda row: not row.get("augmentation", "pitch").startswith("pitch"))

    def values(measure: str, encoder: str) -> list[float]:
        return [float(row[f"{measure}, {encoder}"]) for row in rows if row.get(f"{measure}, {encoder}", "") != ""]

    ours, control = values("cosine", "pre-trained"), values("cosine", "untrained")
    if not rows or not len(ours) == len(control) == len(rows):
        return None
    closer = sum(a > b for a, b in zip(ours, control))
    kept = tuple(
        f"estimates that stay, {measure.partition('(')[2].rstrip(')')}: {median(a):.0f} %, untrained {median(b):.0f} %"
        for measure in ("key (linear probe)", "key (wide MLP)")
        if (a := values(measure, "pre-trained")) and (b := values(measure, "untrained"))
    )
    return Found(
        f"Embeddings move less than the untrained encoder's under {closer} of {len(rows)} changes (centred cosine). "
        "Medians over the changes:",
        kept,
        "holds" if closer == len(rows) else f"holds in {closer} of {len(rows)}",
        "robustness",
    )


def _published(tables: Tables) -> Found | None:
    rows = _records(
        tables, "published", lambda row: row["system"] == "KeyMyna" and row.get("measured here", NOT_RUN) != NOT_RUN
    )
    cells = tuple(f"{row['dataset']}, {row['metric']}: {row['value']}; here {row['measured here']}" for row in rows)
    return Found("The paper's number, and ours:", cells, "see the table", "published") if cells else None

"""Does a comparison resolve anything? Oracles and controls, whose verdicts are known."""

from collections import Counter
from collections.abc import Mapping, Sequence

from geniu_lightning.evaluation.evidence import Evidence, Verdict

ORACLE_LOSS = 0.03  # an oracle that loses more retained accuracy was not trained as the original
ORACLE_RECALL = 0.01  # of the forgotten class, above which a model is no oracle
PASSING = (  # of oracles
    Verdict.FORGOTTEN,
    Verdict.FORGOTTEN_IN_MODEL,
    Verdict.UNTESTED,
    Verdict.DISTINGUISHABLE,
)


def fault(
    evidence: Evidence,
    controls: Mapping[str, Verdict | None],
    of_oracles: Sequence[Verdict | None],
) -> str:
    """Return the fault of oracles or controls and its remedy; empty if there is none."""
    before = evidence.controls["original"].get("accuracy.test.retain")
    for number, row in enumerate(evidence.oracles, 1):
        forget, retain = row.get("accuracy.test.forget"), row.get("accuracy.test.retain")
        if isinstance(forget, float) and forget > ORACLE_RECALL:
            return (
                f"oracle {number} knows the forgotten class ({forget:.1%} of its test images): it"
                " was trained on it, or test images have wrong labels"
            )
        loss = before - retain if isinstance(retain, float) and isinstance(before, float) else 0.0
        if loss > ORACLE_LOSS:
            return (
                f"oracle {number} has {loss:.1%} less retained accuracy than the original; train"
                " both for more epochs"
            )
        auc, error = row.get("membership.loss.auc"), row.get("membership.standard_error")
        if isinstance(auc, float) and isinstance(error, float) and abs(auc - 0.5) > 4 * error:
            return (
                f"oracle {number} tells training from test images of a class it never saw, so the"
                " two sets differ in more than chance; split them anew"
            )
    expected = {"original": [Verdict.RETAINED], "mask": [Verdict.SUPPRESSED, Verdict.UNTESTED]}
    if not evidence.intact:
        expected["original"].append(Verdict.DAMAGED_AND_RETAINED)
        expected["mask"].append(Verdict.DAMAGED)
    count = len(evidence.oracles)
    more = f"more oracles would resolve more: oracles.count={2 * count}"
    for name, verdicts in expected.items():
        if name in controls and controls[name] not in verdicts:
            return f"the verdict on the {name} is {controls[name]}, not {verdicts[0]}; {more}"
    good = sum(verdict in PASSING for verdict in of_oracles)
    if good <= count / 2:
        given = Counter(str(verdict) for verdict in of_oracles)
        said = ", ".join(f"{verdict} {number}" for verdict, number in given.items())
        return f"the verdicts on the oracles, each compared with the others, are {said}; {more}"
    return ""

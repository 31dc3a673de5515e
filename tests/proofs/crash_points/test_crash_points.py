"""Whatever fails at whatever call of a run: no token is lost, no login, no person's work, no alert.

For each change, the pairs of a kind of run and a fault are tried that everything else is a variety
of; each night all of them are.
"""

import json
from collections.abc import Iterator, Sequence

import pytest

from localcloud.qwen import RETIRES_OLD
from tests.proofs.crash_points import table
from tests.proofs.crash_points.faults import (
    KINDS,
    LOSING,
    PASSWORD,
    REFRESH,
    REUSE_ENDS_LOGIN,
    Fault,
    Kind,
    Result,
    Verdict,
    cases,
    try_all,
)
from tests.proofs.crash_points.sandbox import DAY, NOTES, WEEK, Sandboxes

IN_SHORT = {
    REFRESH: (Fault.DIES_AFTER,),
    REUSE_ENDS_LOGIN: (Fault.DIES_AFTER, Fault.LOST_ALWAYS, Fault.PUT_BEFORE),
    PASSWORD: (Fault.FAILS_ALWAYS,),
}


@pytest.fixture(scope="session", name="in_short")
def _in_short(sandboxes: Sandboxes) -> Sequence[Result]:
    tried = [case for kind, faults in IN_SHORT.items() for case in cases(sandboxes, [kind], faults)]
    return try_all(sandboxes, tried, on_result=lambda _result: None)


@pytest.fixture(scope="session", name="at_length")
def _at_length(sandboxes: Sandboxes) -> Sequence[Result]:
    return try_all(sandboxes, cases(sandboxes), on_result=lambda _result: None)


def _pairs() -> Iterator[object]:
    for kind in KINDS:
        for fault in Fault:
            name = f"{kind.title}: {fault.value}"
            if fault in IN_SHORT.get(kind, ()):
                yield pytest.param("in_short", kind, fault, id=name)
            yield pytest.param(
                "at_length", kind, fault, id=f"{name}, at length", marks=pytest.mark.nightly
            )


@pytest.mark.parametrize(("how", "kind", "fault"), list(_pairs()))
def test_a_run_survives_it_at_every_call(
    request: pytest.FixtureRequest, how: str, kind: Kind, fault: Fault
) -> None:
    results: Sequence[Result] = request.getfixturevalue(how)
    mine = [result for result in results if (result.case.kind, result.case.fault) == (kind, fault)]
    assert mine
    broken = [(each.case.point, each.case.call, *each.problems) for each in mine if each.problems]
    assert broken == []


@pytest.mark.nightly
def test_only_what_never_reached_the_secret_is_beyond_reach(at_length: Sequence[Result]) -> None:
    # The host has ended what was spent by then, and nobody but the host has seen what it gave.
    lost = {
        (each.case.kind.title, each.case.call, each.case.fault)
        for each in at_length
        if each.verdict is Verdict.BEYOND
    }
    answer = (Fault.DIES_AFTER, Fault.LOST_ONCE, Fault.LOST_ALWAYS)
    write = (Fault.DIES_BEFORE, Fault.FAILS_ALWAYS, Fault.THROTTLED)
    assert lost == {
        *((kind.title, asks, fault) for kind, (asks, _) in LOSING.items() for fault in answer),
        *((kind.title, keeps, fault) for kind, (_, keeps) in LOSING.items() for fault in write),
    }


@pytest.mark.nightly
def test_beside_a_sign_in_nothing_is_beyond_reach(at_length: Sequence[Result]) -> None:
    beside = [each for each in at_length if each.case.kind.has_sign_in]

    assert beside
    assert not [each for each in beside if each.verdict is Verdict.BEYOND]
    assert [each for each in beside if each.verdict is Verdict.SIGNED_IN]


@pytest.mark.nightly
def test_the_documented_table_is_what_was_found(at_length: Sequence[Result]) -> None:
    assert table.documented() == table.markdown(at_length), "run make crash-points"


@pytest.mark.nightly  # The table is made by the long run: `make crash-points`.
def test_the_documented_table_has_what_was_found_in_short(in_short: Sequence[Result]) -> None:
    documented = table.documented_signs()
    found = {
        (each.case.kind.title, table.numbered(each.case), each.case.fault): each.verdict.value
        for each in in_short
    }
    assert {cell: documented.get(cell) for cell in found} == found, "run make crash-points"


def test_a_recovery_keeps_a_persons_later_keys_beside_the_token(sandboxes: Sandboxes) -> None:
    with sandboxes.sandbox(left=2 * DAY) as sandbox:
        sandbox.stage(sandbox.mint(left=WEEK))
        changed = {**NOTES, "service": "another chat"}
        dead = sandbox.mint(left=DAY)
        sandbox.qwen.retire(dead)
        sandbox.client.put_secret_value(
            SecretId=sandbox.secret_arn, SecretString=json.dumps({**changed, "token": dead})
        )

        end = sandbox.run()

        assert end.word == "refreshed"
        assert {name: json.loads(sandbox.current())[name] for name in changed} == changed


@pytest.mark.xfail(strict=True, reason="verifying asks the endpoint that retires what it is shown")
def test_a_run_leaves_a_live_token_if_the_api_retires_at_every_answer(
    sandboxes: Sandboxes,
) -> None:
    with sandboxes.sandbox(left=2 * DAY) as sandbox:
        sandbox.qwen.answer_with(RETIRES_OLD)

        sandbox.run()

        assert sandbox.serves_a_live_token()

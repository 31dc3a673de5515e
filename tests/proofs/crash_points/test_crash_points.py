"""Whatever fails at whatever call of a run: no token is lost, no person's work, no alert."""

import json
from collections.abc import Sequence

import pytest

from localcloud.qwen import RETIRES_OLD
from tests.proofs.crash_points import table
from tests.proofs.crash_points.faults import KINDS, Fault, Kind, Result, Verdict, cases, try_all
from tests.proofs.crash_points.sandbox import DAY, NOTES, WEEK, Sandboxes


@pytest.fixture(scope="session", name="results")
def _results(sandboxes: Sandboxes) -> Sequence[Result]:
    return try_all(sandboxes, cases(sandboxes), on_result=lambda _result: None)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_a_run_survives_it_at_every_call(
    results: Sequence[Result], kind: Kind, fault: Fault
) -> None:
    mine = [result for result in results if (result.case.kind, result.case.fault) == (kind, fault)]
    assert mine
    broken = [(each.case.point, each.case.call, *each.problems) for each in mine if each.problems]
    assert broken == []


def test_only_a_token_that_never_reached_the_secret_is_beyond_reach(
    results: Sequence[Result],
) -> None:
    # The API has retired the old token by then, and nobody but the API has seen the new one.
    beyond = {
        (each.case.kind.title, each.case.call, each.case.fault)
        for each in results
        if each.verdict is Verdict.BEYOND
    }
    rotation = "Refresh, where the API retires the old token"
    ask, stage = "GET auths/ (current)", "PutSecretValue"
    assert beyond == {
        *((rotation, ask, each) for each in (Fault.DIES_AFTER, Fault.LOST_ONCE, Fault.LOST_ALWAYS)),
        *(
            (rotation, stage, each)
            for each in (Fault.DIES_BEFORE, Fault.FAILS_ALWAYS, Fault.THROTTLED)
        ),
    }


def test_the_documented_table_is_what_was_found(results: Sequence[Result]) -> None:
    assert table.documented() == table.markdown(results), "run make crash-points"


def test_a_recovery_keeps_what_a_person_wrote_beside_the_token_since(sandboxes: Sandboxes) -> None:
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
def test_a_run_leaves_a_live_token_where_the_api_retires_at_every_answer(
    sandboxes: Sandboxes,
) -> None:
    with sandboxes.sandbox(left=2 * DAY) as sandbox:
        sandbox.qwen.answer_with(RETIRES_OLD)

        sandbox.run()

        assert sandbox.serves_a_live_token()

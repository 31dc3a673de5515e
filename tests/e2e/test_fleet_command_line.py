"""The command line's part for the fleet, against the deployed stack."""

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from localcloud.fleet import DAY, SOON, TAG, DeployedFleet
from localcloud.waiting import wait_until
from tests.e2e.conftest import recorded
from tests.minting import pieces

if TYPE_CHECKING:
    import subprocess


MINUTE = timedelta(minutes=1)
PASSWORD = "correct horse battery staple"


def tags_of(name: str, fleet: DeployedFleet) -> dict[str, str]:
    found = fleet.cloud.secretsmanager.describe_secret(SecretId=name)
    return {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}


def test_put_makes_a_member_that_the_next_sweep_keeps(fleet: DeployedFleet) -> None:
    raw = fleet.qwen.mint(account="zoe", lifetime=2 * DAY)

    done = fleet.stack.command_line("put", "--fleet", "--name", "pool/zoe", typed=raw)

    assert done.returncode == 0, done.stderr
    assert "zoe" in done.stdout
    assert (fleet.current("pool/zoe"), tags_of("pool/zoe", fleet)) == (raw, {TAG: "on"})
    assert fleet.sweep()["queued"] == 1
    fleet.wait_for_refresh("pool/zoe")


def test_put_into_a_member_keeps_the_other_keys_and_takes_it_up_again(fleet: DeployedFleet) -> None:
    fleet.add("pool/zoe", value='{"note": "mine"}', tag="off")
    raw = fleet.qwen.mint(account="zoe", lifetime=5 * DAY)

    done = fleet.stack.command_line("put", "--fleet", "--name", "pool/zoe", typed=raw)

    assert done.returncode == 0, done.stderr
    stored = json.loads(fleet.current("pool/zoe"))
    assert (stored["note"], stored["token"]) == ("mine", raw)
    assert tags_of("pool/zoe", fleet) == {TAG: "on"}


@pytest.mark.parametrize("form", ["{}", "Cookie: theme=dark; refresh_token={}"])
def test_put_of_a_session_makes_a_member_and_a_worker_gets_its_first_token(
    form: str, fleet: DeployedFleet
) -> None:
    credential = fleet.sign_in_host.log_in("zoe")

    done = fleet.stack.command_line(
        "put", "--fleet", "--name", "pool/zoe", "--json", typed=form.format(credential)
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["kind"], document["queued"]) == ("session", True)
    assert tags_of("pool/zoe", fleet) == {TAG: "on"}
    assert tags_of("pool/zoe/session", fleet) == {TAG: "session"}
    wait_for_access_token("pool/zoe", fleet)
    assert fleet.alerts() == []


def test_put_of_a_sign_in_makes_a_member_and_a_worker_signs_in(fleet: DeployedFleet) -> None:
    fleet.sign_in_host.set_password("zoe@example.com", PASSWORD, "zoe")
    typed = f"zoe@example.com\n{PASSWORD}\n"

    done = fleet.stack.command_line(
        "put", "--sign-in", "--fleet", "--name", "pool/zoe", typed=typed
    )

    assert done.returncode == 0, done.stderr
    assert "a worker is asked to" in done.stdout
    wait_for_access_token("pool/zoe", fleet)


def test_a_new_session_of_a_member_is_used_though_its_token_is_not_due(
    fleet: DeployedFleet,
) -> None:
    fleet.add_session("zoe", left=14 * MINUTE, has_iat=True)
    before = fleet.current("zoe")
    credential = fleet.sign_in_host.log_in("zoe")

    done = fleet.stack.command_line("put", "--fleet", "--name", "zoe", typed=credential)

    assert done.returncode == 0, done.stderr
    wait_until(
        lambda: fleet.current("zoe") != before,
        within=SOON,
        expected="a token of the new session",
        seen=lambda: str([fleet.queued(), fleet.stack.log("worker")[-5:]]),
    )


def test_put_by_somebody_who_may_not_use_the_queue_stores_the_login_and_says_so(
    fleet: DeployedFleet,
) -> None:
    credential = fleet.sign_in_host.log_in("zoe")
    somebody = fleet.cloud.session_without("sqs:SendMessage")

    done = fleet.stack.command_line(
        "put", "--fleet", "--name", "zoe", typed=credential, session=somebody
    )

    assert done.returncode == 1
    assert "the login is stored, but no worker could be asked to use it" in done.stderr
    assert credential in fleet.current("zoe/session")
    assert credential not in done.stdout + done.stderr


def wait_for_access_token(name: str, fleet: DeployedFleet) -> None:
    """Wait until readers of the member get an access token with nearly all its life."""

    def is_there() -> bool:
        # The emulator gives a secret that was made without a value an empty version.
        found = fleet.cloud.secretsmanager.get_secret_value(SecretId=name)
        return "SecretString" in found and fleet.minutes_left(name) >= 14

    wait_until(
        is_there,
        within=SOON,
        expected=f"an access token in {name}",
        seen=lambda: str([fleet.queued(), fleet.stack.log("worker")[-5:]]),
    )


def test_put_leaves_a_secret_alone_that_is_none_of_the_fleets(fleet: DeployedFleet) -> None:
    fleet.cloud.secretsmanager.create_secret(Name="database", SecretString="a password")
    raw = fleet.qwen.mint(account="zoe")

    done = fleet.stack.command_line("put", "--fleet", "--name", "database", "--json", typed=raw)

    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["reason"] == "config_invalid"
    assert "none of the fleet's" in done.stdout
    assert fleet.current("database") == "a password"


def test_remove_takes_a_member_out_and_leaves_its_token(fleet: DeployedFleet) -> None:
    fleet.add("pool/zoe", left=2 * DAY)
    before = fleet.current("pool/zoe")

    done = fleet.stack.command_line("remove", "--name", "pool/zoe")

    assert done.returncode == 0, done.stderr
    assert "delete-secret --secret-id pool/zoe" in done.stdout
    assert tags_of("pool/zoe", fleet) == {}
    assert fleet.sweep()["seen"] == 0
    assert fleet.current("pool/zoe") == before


def test_remove_takes_a_member_out_with_its_session_and_leaves_both(fleet: DeployedFleet) -> None:
    fleet.add_session("zoe", left=14 * MINUTE)
    before = fleet.current("zoe"), fleet.current("zoe/session")

    done = fleet.stack.command_line("remove", "--name", "zoe", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["secrets"] == ["zoe", "zoe/session"]
    assert (tags_of("zoe", fleet), tags_of("zoe/session", fleet)) == ({}, {})
    assert (fleet.current("zoe"), fleet.current("zoe/session")) == before
    assert fleet.sweep()["seen"] == 0


@pytest.mark.parametrize(
    ("name", "said"), [("nobody", "ResourceNotFoundException"), ("database", "none of the fleet's")]
)
def test_remove_says_what_is_no_member(name: str, said: str, fleet: DeployedFleet) -> None:
    fleet.cloud.secretsmanager.create_secret(Name="database", SecretString="a password")

    done = fleet.stack.command_line("remove", "--name", name)

    assert done.returncode == 1
    assert said in done.stderr


def test_status_shows_first_what_needs_a_look_and_counts_the_others(fleet: DeployedFleet) -> None:
    for number in range(40):
        fleet.add(f"fresh/{number:02}", left=(4 + number % 3) * DAY + DAY / 2)
    fleet.add("stale", left=2.5 * DAY)
    fleet.add("expired", left=-DAY)
    fleet.add("other", value="no token")
    fleet.add("empty")

    done = fleet.stack.command_line("status", "--fleet")

    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    rows = lines[: lines.index("… and 14 more (--all shows them, or --json)")]
    assert len(rows) == 30
    assert [row.split()[0] for row in rows[:5]] == [
        "empty",
        "other",
        "expired",
        "stale",
        "fresh/00",
    ]
    assert rows[3].split()[1:] == ["2.50", "days", "stale", "token", "stale"]
    assert "token_malformed" in done.stdout
    assert ["expired", "██", "1"] in [line.split() for line in lines]
    # The most frequent number of days is drawn in full.
    [fullest] = [line.split() for line in lines if line.strip().startswith("4-5")]
    assert (len(fullest[1]), fullest[2]) == (24, "14")
    counted = {line.split()[0]: line.split()[1] for line in lines if len(line.split()) == 2}
    assert {name: counted[name] for name in ("Secrets", "Fresh", "Stale", "Unreadable")} == {
        "Secrets": "44",
        "Fresh": "40",
        "Stale": "1",
        "Unreadable": "2",
    }


def test_status_of_a_fleet_with_nothing_wrong_is_well(fleet: DeployedFleet) -> None:
    fleet.add("fresh", left=5 * DAY)

    done = fleet.stack.command_line("status", "--fleet", "--json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["totals"] == {
        "secrets": 1,
        "fresh": 1,
        "stale": 0,
        "expired": 0,
        "unreadable": 0,
        "with_a_session": 0,
        "incidents": 0,
    }
    [member] = document["members"]
    assert (member["name"], member["account"], member["state"]) == ("fresh", "fresh", "fresh")
    assert (member["days_remaining"], member["problem"]) == (5.0, None)


def test_status_tells_what_may_not_be_read_from_what_needs_a_person(fleet: DeployedFleet) -> None:
    fleet.add("fresh", left=5 * DAY)
    fleet.forbid(fleet.add("foreign", left=5 * DAY))
    # What is forbidden to all, the root user may do all the same.
    somebody = fleet.cloud.session_without("sns:Publish")

    some = fleet.stack.command_line("status", "--fleet", session=somebody)
    fleet.add("malformed", value="no token")
    both = fleet.stack.command_line("status", "--fleet", session=somebody)

    assert some.returncode == 1, some.stdout
    assert "AccessDeniedException (store_failed)" in some.stdout
    assert both.returncode == 3, both.stdout


def test_status_shows_sessions_beside_tokens_and_what_the_runs_met(fleet: DeployedFleet) -> None:
    fleet.add("abe", left=5 * DAY)
    fleet.add_session("dead", left=4 * MINUTE)
    fleet.sign_in_host.end_login(fleet.sign_in_host.current("dead"))
    fleet.add_session("zoe", left=14 * MINUTE, has_iat=True)
    fleet.sweep()
    wait_until(
        lambda: "dead" in dict(fleet.told()),
        within=SOON,
        expected="an alert about the login that ended",
        seen=lambda: str(fleet.queued()),
    )
    fleet.forbid("zoe/session")
    # What is forbidden to all, the root user may do all the same.
    somebody = fleet.cloud.session_without("sns:Subscribe")

    # The worker gives its lease back after the alert, and writes the incident then.
    done = wait_until(
        lambda: has_incident(fleet.stack.command_line("status", "--fleet", session=somebody)),
        within=SOON,
        expected="the incident of the login that ended",
        seen=lambda: str(fleet.stack.log("worker")[-5:]),
    )

    assert done.returncode == 3, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "session" in rows["dead"]
    assert "(session_rejected, critical)" in done.stdout
    assert "session may not be read" in rows["zoe"]
    assert "5.00 days  fresh       token" in rows["abe"]
    assert done.stdout.splitlines()[0].startswith("dead")


def has_incident(
    done: "subprocess.CompletedProcess[str]",
) -> "subprocess.CompletedProcess[str] | None":
    return done if "incident since" in done.stdout else None


def test_status_of_an_empty_fleet_says_so(fleet: DeployedFleet) -> None:
    done = fleet.stack.command_line("status", "--fleet")

    assert done.returncode == 0, done.stderr
    assert "Secrets         0" in done.stdout


def test_all_shows_them_all(fleet: DeployedFleet) -> None:
    for number in range(35):
        fleet.add(f"fresh/{number:02}", left=5 * DAY)

    done = fleet.stack.command_line("status", "--fleet", "--all")

    assert all(f"fresh/{number:02}" in done.stdout for number in range(35))


def test_the_keepers_own_status_shows_its_own_schedule_beside_the_fleets(
    fleet: DeployedFleet,
) -> None:
    fleet.stack.put(fleet.qwen.mint(lifetime=5 * DAY))

    done = fleet.stack.command_line("status", "--json")

    document = json.loads(done.stdout)
    assert document["schedule"]["expression"] == "rate(12 hours)"
    assert "FleetSilentAlarm" in document["alarms"]


def test_sweep_has_the_fleet_looked_through_now(fleet: DeployedFleet) -> None:
    fleet.add("due", left=2 * DAY)

    done = fleet.stack.command_line("sweep")

    assert done.returncode == 0, done.stderr
    assert "Queued" in done.stdout
    fleet.wait_for_refresh("due")


def test_no_token_and_no_part_of_one_is_in_anything_that_the_fleet_says(
    fleet: DeployedFleet,
) -> None:
    raws = [fleet.qwen.mint(account=f"a{number}", lifetime=2 * DAY) for number in range(2)]
    fleet.add("pasted-badly", value=raws[0].replace(".", "-"))

    raws.append(fleet.sign_in_host.log_in("zoe"))

    with recorded(fleet.cloud.relay) as sent:
        commands = [
            fleet.stack.command_line("put", "--fleet", "--name", "a1", typed=raws[1]),
            fleet.stack.command_line("sweep"),
            # After the sweep, which would queue the next refresh of this one as well.
            fleet.stack.command_line("put", "--fleet", "--name", "zoe", typed=raws[2]),
        ]
        fleet.wait_for_refresh("a1")
        wait_for_access_token("zoe", fleet)
        fleet.drain()
    raws += [fleet.current("a1"), fleet.current("zoe")]
    raws.append(fleet.sign_in_host.current("zoe"))
    commands += [
        fleet.stack.command_line("status", "--fleet"),
        fleet.stack.command_line("status", "--fleet", "--json"),
        fleet.stack.command_line("remove", "--name", "a1"),
    ]
    # The status of a fleet with a value that was pasted badly is trouble.
    assert [done.returncode for done in commands] == [0, 0, 0, 3, 3, 0]

    said = [
        *(done.stdout + done.stderr for done in commands),
        *sent,
        *fleet.stack.log("dispatch"),
        *fleet.stack.log("worker"),
        *(json.dumps(dict(each.document)) for each in fleet.stack.notifications()),
        *(email.text for email in fleet.cloud.relay.emails),
        fleet.cloud.ministack.output(),
    ]
    everything = "\n".join(said)
    assert "token_malformed" in everything
    assert '"Token Refreshed"' in everything, "the events must be among them"
    assert not any(piece in everything for raw in raws for piece in pieces(raw))

"""The command line's part for the fleet, against the deployed stack."""

import json

import pytest

from localcloud.fleet import DAY, TAG, Fleet
from tests.e2e.conftest import recorded
from tests.minting import pieces


def tags_of(name: str, fleet: Fleet) -> dict[str, str]:
    found = fleet.cloud.secretsmanager.describe_secret(SecretId=name)
    return {tag["Key"]: tag["Value"] for tag in found.get("Tags", [])}


def test_put_makes_a_member_that_the_next_sweep_keeps(fleet: Fleet) -> None:
    raw = fleet.qwen.mint(account="zoe", lifetime=2 * DAY)

    done = fleet.stack.command_line("put", "--fleet", "--name", "pool/zoe", typed=raw)

    assert done.returncode == 0, done.stderr
    assert "zoe" in done.stdout
    assert (fleet.current("pool/zoe"), tags_of("pool/zoe", fleet)) == (raw, {TAG: "on"})
    assert fleet.sweep()["queued"] == 1
    fleet.wait_for_refresh("pool/zoe")


def test_put_into_a_member_keeps_the_other_keys_and_takes_it_up_again(fleet: Fleet) -> None:
    fleet.add("pool/zoe", value='{"note": "mine"}', tag="off")
    raw = fleet.qwen.mint(account="zoe", lifetime=5 * DAY)

    done = fleet.stack.command_line("put", "--fleet", "--name", "pool/zoe", typed=raw)

    assert done.returncode == 0, done.stderr
    stored = json.loads(fleet.current("pool/zoe"))
    assert (stored["note"], stored["token"]) == ("mine", raw)
    assert tags_of("pool/zoe", fleet) == {TAG: "on"}


def test_put_leaves_a_secret_alone_that_is_none_of_the_fleets(fleet: Fleet) -> None:
    fleet.cloud.secretsmanager.create_secret(Name="database", SecretString="a password")
    raw = fleet.qwen.mint(account="zoe")

    done = fleet.stack.command_line("put", "--fleet", "--name", "database", "--json", typed=raw)

    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["reason"] == "config_invalid"
    assert "none of the fleet's" in done.stdout
    assert fleet.current("database") == "a password"


def test_remove_takes_a_member_out_and_leaves_its_token(fleet: Fleet) -> None:
    fleet.add("pool/zoe", left=2 * DAY)
    before = fleet.current("pool/zoe")

    done = fleet.stack.command_line("remove", "--name", "pool/zoe")

    assert done.returncode == 0, done.stderr
    assert "delete-secret --secret-id pool/zoe" in done.stdout
    assert tags_of("pool/zoe", fleet) == {}
    assert fleet.sweep()["seen"] == 0
    assert fleet.current("pool/zoe") == before


@pytest.mark.parametrize(
    ("name", "said"), [("nobody", "ResourceNotFoundException"), ("database", "none of the fleet's")]
)
def test_remove_says_what_is_no_member(name: str, said: str, fleet: Fleet) -> None:
    fleet.cloud.secretsmanager.create_secret(Name="database", SecretString="a password")

    done = fleet.stack.command_line("remove", "--name", name)

    assert done.returncode == 1
    assert said in done.stderr


def test_status_shows_first_what_needs_a_look_and_counts_the_others(fleet: Fleet) -> None:
    for number in range(40):
        fleet.add(f"fresh/{number:02}", left=(4 + number % 3) * DAY + DAY / 2)
    fleet.add("stale", left=2.5 * DAY)
    fleet.add("expired", left=-DAY)
    fleet.add("other", value="no token")
    fleet.add("empty")

    done = fleet.stack.command_line("status", "--fleet")

    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    rows = lines[: lines.index("… and 14 more that live longer (--all shows them, or --json)")]
    assert len(rows) == 30
    assert [row.split()[0] for row in rows[:5]] == [
        "empty",
        "other",
        "expired",
        "stale",
        "fresh/00",
    ]
    assert rows[3].split()[1:] == ["2.50", "days", "stale", "stale"]
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


def test_status_of_a_fleet_with_nothing_wrong_is_well(fleet: Fleet) -> None:
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
    }
    [member] = document["members"]
    assert (member["name"], member["account"], member["state"]) == ("fresh", "fresh", "fresh")
    assert (member["days_remaining"], member["problem"]) == (5.0, None)


def test_status_tells_what_may_not_be_read_from_what_needs_a_person(fleet: Fleet) -> None:
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


def test_status_of_an_empty_fleet_says_so(fleet: Fleet) -> None:
    done = fleet.stack.command_line("status", "--fleet")

    assert done.returncode == 0, done.stderr
    assert "Secrets     0" in done.stdout


def test_all_shows_them_all(fleet: Fleet) -> None:
    for number in range(35):
        fleet.add(f"fresh/{number:02}", left=5 * DAY)

    done = fleet.stack.command_line("status", "--fleet", "--all")

    assert all(f"fresh/{number:02}" in done.stdout for number in range(35))


def test_the_keepers_own_status_shows_its_own_schedule_beside_the_fleets(fleet: Fleet) -> None:
    fleet.stack.put(fleet.qwen.mint(lifetime=5 * DAY))

    done = fleet.stack.command_line("status", "--json")

    document = json.loads(done.stdout)
    assert document["schedule"]["expression"] == "rate(12 hours)"
    assert "FleetSilentAlarm" in document["alarms"]


def test_sweep_has_the_fleet_looked_through_now(fleet: Fleet) -> None:
    fleet.add("due", left=2 * DAY)

    done = fleet.stack.command_line("sweep")

    assert done.returncode == 0, done.stderr
    assert "Queued" in done.stdout
    fleet.wait_for_refresh("due")


def test_no_token_and_no_part_of_one_is_in_anything_that_the_fleet_says(fleet: Fleet) -> None:
    raws = [fleet.qwen.mint(account=f"a{number}", lifetime=2 * DAY) for number in range(2)]
    fleet.add("pasted-badly", value=raws[0].replace(".", "-"))

    with recorded(fleet.cloud.relay) as sent:
        commands = [
            fleet.stack.command_line("put", "--fleet", "--name", "a1", typed=raws[1]),
            fleet.stack.command_line("sweep"),
        ]
        fleet.wait_for_refresh("a1")
        fleet.drain()
    raws.append(fleet.current("a1"))
    commands += [
        fleet.stack.command_line("status", "--fleet"),
        fleet.stack.command_line("status", "--fleet", "--json"),
        fleet.stack.command_line("remove", "--name", "a1"),
    ]

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

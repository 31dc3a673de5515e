#!/bin/sh
# Prints the API's answer for the first page of the chats, with the token that qwen-token-refresh keeps.
#
#     chats.sh SECRET_ID
#
# Needs the AWS CLI (with credentials that the reader policy is attached to) and curl.
# Exit codes: 0 done; 1 no answer, or none of the API's own; 2 the command line is invalid; 3 the API
# refuses the token, or the secret holds none: see the stack's alerts.
#
# The token stays in this process and in pipes: on no command line, in nobody's environment. A trace
# (sh -x) would show it, an inherited export would pass it on: both are turned off.
set -eu +ax
unset secret token answer

say() {
    echo "chats.sh: $1" >&2
    exit "$2"
}

[ $# -eq 1 ] || say "usage: chats.sh SECRET_ID" 2
base_url=${API_BASE_URL:-https://chat.qwen.ai}
case $base_url in
https://* | http://127.0.0.1:*) ;;
*) say "API_BASE_URL should begin with https://" 2 ;;
esac

secret=$(aws secretsmanager get-secret-value --secret-id "$1" --query SecretString --output text) ||
    say "the secret $1 could not be read" 1

# The secret is the bare token, or a JSON object with the token under "token": the first one, where
# objects in it have one as well.
token=$secret
case $secret in
'{'*'"token"'*)
    token=${secret#*'"token"'}
    token=${token#*:}
    token=${token#*'"'}
    token=${token%%'"'*}
    ;;
esac
case $token in
# Nothing else may get into curl's configuration.
*[!A-Za-z0-9._-]*) say "the secret $1 holds no token" 3 ;;
*.*.*) ;;
*) say "the secret $1 holds no token" 3 ;;
esac

# First -q: a ~/.curlrc that says "verbose" would show the token. Redirects are not followed.
answer=$(
    curl -q --config - --silent --show-error --max-time 20 --write-out '\n%{http_code}' \
        "$base_url/api/v2/chats/?page=1" <<END
header = "Authorization: Bearer $token"
END
) || say "no answer from $base_url" 1
status=${answer##*
}
answer=${answer%
*}

case $status:$answer in
200:*'"success":true'* | 200:*'"success": true'*)
    printf '%s\n' "$answer"
    ;;
401:'{'* | 200:'{'*'"unauthorized"'*) say "the API refuses the token" 3 ;;
*) say "no answer of the API's own (status $status)" 1 ;;
esac

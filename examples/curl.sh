#!/usr/bin/env bash
# A tour of the API with curl. It creates an account, gets an access token, generates a
# text, follows another text while the service generates it, resumes a broken stream,
# and reads the history.
#
#   examples/curl.sh                                   # a service on this machine
#   BASE_URL=https://colophon.example examples/curl.sh # or another one
#
# The script needs curl and POSIX tools. It ends with an error at the first unexpected
# response.
set -euo pipefail

BASE_URL=${BASE_URL:-http://127.0.0.1:8000}
USERNAME=reader-$(date +%s)-$$
PASSWORD=securepassword
ACCESS_TOKEN=
json='Content-Type: application/json'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf '\n# %s\n' "$*"; }

fail() {
  printf '\nexamples/curl.sh: %s\n' "$*" >&2
  exit 1
}

# show prints a curl command as a user would type it, without the access token.
show() {
  local line='$ curl' arg
  for arg in "$@"; do
    case $arg in
      *[!A-Za-z0-9_./:=-]*) line+=" '$arg'" ;;
      *) line+=" $arg" ;;
    esac
  done
  if [ -n "$ACCESS_TOKEN" ]; then
    line=${line//\'Authorization: Bearer "$ACCESS_TOKEN"\'/'"Authorization: Bearer $ACCESS_TOKEN"'}
  fi
  printf '%s\n' "$line"
}

# call STATUS ARGUMENT... runs curl, prints the response and checks its status. It
# leaves the body in $work/body and the headers in $work/headers.
call() {
  local want=$1 got
  shift
  show "$@"
  got=$(curl --silent --show-error --max-time 90 --dump-header "$work/headers" --output "$work/body" --write-out '%{http_code}' "$@") ||
    fail "no answer from $BASE_URL"
  sed 's/_token": *"[^"]*"/_token":"..."/g' "$work/body" # keeps secrets out of the terminal
  [ "$got" = "$want" ] || fail "the status is $got, expected $want"
}

# field NAME prints the first string member with that name in the last body.
field() {
  grep -o "\"$1\": *\"[^\"]*\"" "$work/body" | sed -n '1s/.*: *"\(.*\)"/\1/p'
}

# header NAME prints the value of a header of the last response.
header() {
  tr -d '\r' <"$work/headers" | awk -F ': *' -v name="$1" 'tolower($1) == tolower(name) { print $2 }'
}

# messages prints a stream without its comments, which only keep the connection open.
messages() { grep -E '^(id|event|data):' "$1"; }

say "Without an access token, requests for texts are refused."
call 401 "$BASE_URL/history"

say "Create an account."
call 200 "$BASE_URL/users" -H "$json" -d "{\"username\":\"$USERNAME\",\"password\":\"$PASSWORD\"}"
[ "$(field username)" = "$USERNAME" ] || fail "the account has another name"

say "Get an access token, by the password grant of OAuth2."
call 200 "$BASE_URL/token" -d grant_type=password -d "username=$USERNAME" -d "password=$PASSWORD"
ACCESS_TOKEN=$(field access_token)
[ -n "$ACCESS_TOKEN" ] || fail "the answer has no access token"
auth="Authorization: Bearer $ACCESS_TOKEN"

say "Generate a text and wait for it."
call 200 "$BASE_URL/generate" -H "$auth" -H "$json" -d '{"prompt":"The Rays of Light","max_length":40,"seed":1704}'
generated=$(field id)
[ "$(field state)" = completed ] || fail "the text is not completed"
grep -q '"generated_text": *"The Rays of Light' "$work/body" || fail "the text does not begin with the prompt"

say "Submit a job: the answer comes at once and names the job's URL."
call 202 "$BASE_URL/jobs" -H "$auth" -H "$json" -d '{"prompt":"In a very dark Chamber","max_length":60}'
job=$(header Location)
submitted=$(field id)
case $job in
  /*) job=$BASE_URL$job ;;
esac
case $job in
  "$BASE_URL"/jobs/*) ;;
  *) fail "the Location is $job" ;;
esac

say "Follow the job's events as the text is generated. The id of an event is its version."
show -N "$job/events" -H "$auth" -H 'Accept: text/event-stream'
curl --silent --show-error --no-buffer --fail --max-time 120 "$job/events" -H "$auth" -H 'Accept: text/event-stream' |
  tee "$work/stream" || fail "the stream ended with an error"
messages "$work/stream" >"$work/all"
grep '^event:' "$work/all" | sed -n '$p' | grep -q 'job\.completed$' || fail "the last event is not job.completed"
grep '^id:' "$work/all" | sed 's/^id: *//' | awk '$1 != NR { exit 1 }' || fail "the versions are not 1, 2, 3 ..."

say "Resume the stream after an event, with Last-Event-ID: the same bytes come again."
show -N "$job/events" -H "$auth" -H 'Accept: text/event-stream' -H 'Last-Event-ID: 2'
curl --silent --show-error --no-buffer --fail --max-time 30 "$job/events" -H "$auth" -H 'Accept: text/event-stream' -H 'Last-Event-ID: 2' >"$work/resumed" ||
  fail "the resumed stream ended with an error"
messages "$work/resumed" >"$work/tail"
sed -n '7,$p' "$work/all" | cmp - "$work/tail" || fail "the resumed stream differs" # each event has three lines
printf '(%d events)\n' "$(grep -c '^id:' "$work/tail")"

say "Get the completed job."
call 200 "$job" -H "$auth"
[ "$(field state)" = completed ] || fail "the job is not completed"

say "Read the history, newest first."
call 200 "$BASE_URL/history" -H "$auth"
first=$(field id)
[ "$first" = "$submitted" ] || fail "the newest text is $first, expected $submitted"
grep -q "\"$generated\"" "$work/body" || fail "the first text is missing"

say "Every answer was as expected. The API reference is at $BASE_URL/docs."
